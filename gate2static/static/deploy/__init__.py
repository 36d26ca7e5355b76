"""The deployed form of a static network: norms and constants folded, channels moved in the way that the backend likes.

`pipeline` holds the passes in their order; every other file is one pass, or what a pass reads.
"""
