"""Recipes that came with the package, and the reference of what a recipe may hold."""
