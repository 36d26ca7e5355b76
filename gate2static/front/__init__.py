"""Fronts: the trials of searches that no other trial beats, as a table, a page and JSON (docs/search.md)."""
