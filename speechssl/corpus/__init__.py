"""Corpora as lists of utterances: build, divide, join, choose, segment. `fetch` gets real ones, `check` finds fault."""
