"""How anything is trained: the one loop, optimisers, checkpoints, reports, and a monitor over runs."""
