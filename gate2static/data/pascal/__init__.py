"""PASCAL-Context with five dense tasks: the loader, the classes, and the masks of human parts."""
