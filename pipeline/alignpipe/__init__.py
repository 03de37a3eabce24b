"""alignpipe: a plugin-based experiment pipeline for aligning language models."""

__version__ = "0.1.0"
