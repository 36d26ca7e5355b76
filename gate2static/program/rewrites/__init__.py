"""Rewritings of a traced graph into operators that the rest of the package knows, one per file."""
