"""Not measurements: the search for networks that pruning gets wrong, and a picture for the documentation."""
