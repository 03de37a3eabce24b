"""What runs inside the sandbox: handed to its interpreter as text, so it imports the standard library only."""
