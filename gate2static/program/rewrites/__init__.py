"""Rewrites a traced graph into operators that the rest of the package knows, one rewriting per file."""
