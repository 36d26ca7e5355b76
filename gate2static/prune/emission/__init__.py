"""The means of emission: the tensors that hold channels, how they are arranged, and the graph under construction."""
