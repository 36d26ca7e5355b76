"""What a step of training, pruning or exporting takes, and the data set that is rendered."""
