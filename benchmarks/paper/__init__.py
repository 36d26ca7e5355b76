"""What the networks of the paper cost, beside its tables."""
