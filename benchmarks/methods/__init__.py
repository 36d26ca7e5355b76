"""Multi-task optimisation methods beside each other: metrics at their own and at equal gradient scale, and costs."""
