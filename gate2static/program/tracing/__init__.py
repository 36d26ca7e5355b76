"""Records a forward as a graph of layers and operators, and answers what Python asks of values meanwhile."""
