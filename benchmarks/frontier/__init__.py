"""The frontier of accuracy against cost: every network that a user could deploy, with the same training for each."""
