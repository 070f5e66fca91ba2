"""Packages that not every Python or torch can have: marks that skip what runs them, and say why."""

from importlib.util import find_spec

import pytest

__all__ = ["NO_FAIRSEQ2", "NO_FASTABX", "needs_fairseq2"]

NO_FAIRSEQ2 = "fairseq2 is not installed: it has packages for Python 3.11 and 3.12 with torch 2.9.1 alone"
NO_FASTABX = "fastabx is not installed: it needs Python 3.12 and torch 2.10"

needs_fairseq2 = pytest.mark.skipif(find_spec("fairseq2") is None, reason=NO_FAIRSEQ2)
