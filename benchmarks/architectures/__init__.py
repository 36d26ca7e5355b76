"""Every architecture, and gated networks, at equal training: accuracy, safety, cost and time."""
