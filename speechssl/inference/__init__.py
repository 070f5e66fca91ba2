"""Models for Python code: load one by its name, hear audio with it. What the commands do, without files between."""
