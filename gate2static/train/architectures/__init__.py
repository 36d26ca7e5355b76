"""What rows of some architectures need before they are trained: a searched tree, policies of an earlier row."""
