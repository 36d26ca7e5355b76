"""One file per backend: what it takes to run a network there and time it."""
