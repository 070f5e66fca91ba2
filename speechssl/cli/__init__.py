"""The command line, a module for what belongs together. Each command reads its arguments and calls the package.

What a command needs is imported when it runs, so that `--help` prints without torch, and a command runs without the
extras of the others.
"""
