"""How far fewer MACs become less time, on a runtime of choice."""
