"""What a search costs beside its training, and what a front of many trials costs."""
