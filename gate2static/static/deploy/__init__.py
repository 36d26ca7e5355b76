"""The deployed form of a static network: norms and constants folded, channels moved as the backend likes it."""
