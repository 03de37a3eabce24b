"""reward=unit_tests: runs the response's code against tests of its row, in a sandbox."""
