"""The training form of a static network: its operators, with layers where training differs from evaluation."""
