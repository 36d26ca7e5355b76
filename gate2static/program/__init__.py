"""`nn.Module` to `Program`: what a backbone computes, and where gates may stand."""
