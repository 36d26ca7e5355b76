"""From an `nn.Module` to a `Program`: what a backbone computes, and where its gates stand.

`build_program` takes these steps:

1. `tracing` records the forward as a graph of layers and operators: its `tracer` decides what stays whole,
   `known_values` answers what Python asks of values meanwhile. `rewrites` brings the graph into operators that have a
   rule.
2. `annotate` finds the shape, dtype, batch dimensions and MACs of every node.
3. `units` finds the gated units and inserts a gate node behind each of them.
4. `heads` traces the heads and appends them.

`operators` and `layer_kinds` are what all stages know of torch's operators and layers.
"""
