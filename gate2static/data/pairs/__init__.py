"""Two overlapping objects in one image: name both, and draw one of them."""
