"""The pictures of a report: one kind per file, with the values that it is drawn from."""
