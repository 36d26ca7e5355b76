"""Backbones: one family or library per file."""
