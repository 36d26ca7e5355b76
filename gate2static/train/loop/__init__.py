"""The training of one network, from wherever its checkpoint left it."""
