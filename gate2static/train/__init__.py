"""A recipe to trained networks: the loop, the checkpoints and what came out."""
