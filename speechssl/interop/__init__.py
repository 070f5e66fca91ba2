"""Models of other toolkits, in and out. Imports nothing of theirs before a function is called."""
