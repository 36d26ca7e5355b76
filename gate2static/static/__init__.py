"""`StaticModel`: the pruned network as a thing of its own; knows neither gates nor pruning."""
