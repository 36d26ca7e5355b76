"""The runners: one file per backend that loads networks and times them."""
