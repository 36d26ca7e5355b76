"""Operators in a form that ONNX has: pooling, and convolutions whose weights differ from sample to sample."""
