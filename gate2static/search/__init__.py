"""Searches: many gated networks of one recipe, proposed and handed out by Optuna (docs/search.md)."""

from gate2static.search.running import search

__all__ = ["search"]
