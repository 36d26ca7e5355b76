"""A run folder to one HTML page that opens offline, with its pictures as PNG beside it."""
