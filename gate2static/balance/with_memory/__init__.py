"""Methods that combine gradients and remember something from step to step."""
