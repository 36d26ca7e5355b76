"""Safe networks: no task is worse than with a network of its own."""
