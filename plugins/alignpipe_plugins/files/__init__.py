"""`data=files`: the user's own demonstrations, preferences and prompts. Start with README.md, then `stage.py`."""
