"""Training without the channels that settled gates no longer need.

Once a gate has kept its side for a number of steps, its α is frozen, and training runs another lift of the same
parameters that computes only what the other gates still need. Evaluation, pruning, copies and state dicts know only the
full lift.
"""
