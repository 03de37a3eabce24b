"""reward=http: any scoring service by its address."""
