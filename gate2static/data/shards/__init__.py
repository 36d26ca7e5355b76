"""Samples in tar files, as WebDataset has them, with random access: each member's place is known."""
