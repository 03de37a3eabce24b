"""The command line: `main` dispatches and is the error boundary, `app` is the Hydra application."""
