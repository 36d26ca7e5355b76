"""The training of one network, from its last checkpoint on."""
