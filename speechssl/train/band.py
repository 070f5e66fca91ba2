"""Where a sign of health lies in a healthy run, what was seen, and what to change: an entry of the guard's table."""

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Band", "Kind"]

Kind = Literal["contrastive", "masked_prediction", "ctc"]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where a sign of health lies in a healthy run."""

    name: str  # of the alarm
    kinds: tuple[Kind, ...]
    sign: str  # of `signs`
    shown: str  # the sign in words
    low: float = -math.inf
    high: float = math.inf
    is_early: bool = True  # whether it holds from the first report on, or from the end of the grace
    after: float = 0.0  # share of the run before which it does not hold either, unless the grace is set
    said_by: str = ""  # another alarm, that says the same and more
    seen: str  # what healthy runs and collapses showed, and where that is from
    likely: str
    change: str

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high

    def expected(self) -> str:
        """Describe the band."""
        return f"at least {self.low:g}" if self.high == math.inf else f"at most {self.high:g}"
