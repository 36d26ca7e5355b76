"""Every network of two libraries through every step."""
