"""What frozen features are worth: scores of downstream tasks with intervals, and measures that need no labels."""
