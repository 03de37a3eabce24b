"""The built-in plugins, one folder each; they come in through the same entry points as anybody else's."""
