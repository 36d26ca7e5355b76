"""Taskonomy: the loader, and the official tiny partition of its buildings."""
