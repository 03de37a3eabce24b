"""reward=function: a plain function in a Python file, also one written for TRL."""
