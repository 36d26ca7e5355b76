"""What lies beside an exported network: its description for programs, and examples that run it."""
