"""NYUD-v2 in the two preparations that multi-task learning uses."""
