"""Training without the channels that settled gates no longer need."""
