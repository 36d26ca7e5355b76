"""A trained gated network -> one with other tasks, or with gates for groups of another size."""
