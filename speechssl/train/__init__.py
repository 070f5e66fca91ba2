"""Training: the loop, optimisers, checkpoints, logs, and the health monitor of runs."""
