"""Methods that weigh the losses: one per file."""
