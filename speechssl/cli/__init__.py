"""The command line, one module per group of commands. Each command reads its arguments and calls the package.

A command imports what it needs when it runs, so that `--help` works without torch, and a command works without the
extras of the others.
"""
