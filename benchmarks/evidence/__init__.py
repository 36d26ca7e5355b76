"""Whether the method does what it promises: accuracy at a cost, budgets kept, latencies predicted."""
