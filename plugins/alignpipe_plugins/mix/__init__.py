"""reward=mix: several rewards as one."""
