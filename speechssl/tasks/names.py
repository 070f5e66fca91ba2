"""A row of the table of parameter names: what one module, or parameter, is called here and in other toolkits."""

from typing import Literal, NamedTuple

__all__ = ["Row", "Toolkit"]

Toolkit = Literal["fairseq", "transformers", "torchaudio", "fairseq2"]


class Row(NamedTuple):
    """Names of one module, or of one parameter, without our prefix `encoder.` and without their prefixes.

    `{i}` is an index, `{qkv}` stands for the three projections that we keep as one. None: the toolkit has no such
    module, and drops it.
    """

    ours: str
    fairseq: str | None = None
    transformers: str | None = None
    torchaudio: str | None = None
    fairseq2: str | None = None
