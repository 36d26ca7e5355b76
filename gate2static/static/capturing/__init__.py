"""From a network that was emitted to our graph: torch.export, at one size and at others."""
