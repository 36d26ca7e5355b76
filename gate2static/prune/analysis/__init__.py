"""The analysis of a program's channels: which streams share a channel, and who needs it."""
