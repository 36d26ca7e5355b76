"""Methods that combine the tasks' gradients: one per file."""
