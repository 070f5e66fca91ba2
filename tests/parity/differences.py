"""Every comparison with a reference goes through here, so that the largest differences can be listed.

A difference counts as a share of the largest magnitude of the reference's tensor: 1e-5 in float32, which a float32 of
order 1 to 10 reaches after a few thousand additions in another order; and 1e-10 in float64, where no rounding is left
to hide a difference behind. Gradients are sums over the whole batch that partly cancel, so that mere rounding reaches
6e-5 in float32 (1e-5 between two orders of the same negatives in ours): they are held to 1e-4 there, and to 1e-10 in
float64, as are the weights after a step of AdamW, which divides small gradients by their own size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.parity.cases import Case

__all__ = ["GRADIENT", "assert_close", "markdown_table"]

GRADIENT = {torch.float32: 1e-4, torch.float64: 1e-10}
OUTPUT = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Difference:
    """How far one tensor lies from the reference's."""

    reference: str
    size: str
    what: str  # kind: name
    absolute: float
    relative: float  # to the largest magnitude of the reference's tensor

    @property
    def kind(self) -> str:
        return self.what.partition(":")[0]


SEEN: list[Difference] = []


def assert_close(
    found: Tensor,
    expected: Tensor,
    *,
    what: str,
    reference: str,
    case: Case,
    tolerance: Mapping[torch.dtype, float] = OUTPUT,
) -> None:
    """Compare two tensors, and keep their difference for the table.

    Args:
        found: ours.
        expected: the reference's, of the same shape.
        what: "kind: name"; the table has a row for each kind.
        reference: whose `expected` is.
        case: the size and form compared.
        tolerance: how far the two may be apart, as a share of the largest magnitude in `expected`.
    """
    found, expected = found.detach(), expected.detach()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), what
    assert torch.equal(found.isinf(), expected.isinf()), what
    is_finite = ~expected.isinf()
    absolute = float((found - expected)[is_finite].abs().max())
    relative = absolute / max(float(expected[is_finite].abs().max()), 1e-30)
    size = "all, float64" if found.dtype == torch.float64 else case.size
    SEEN.append(Difference(reference, size, what, absolute, relative))
    message = f"{reference}, {case.name}, {what}: {absolute:.1e} apart, {relative:.1e} relative"
    assert relative <= tolerance[found.dtype], message  # a NaN is no less either


def markdown_table() -> str:
    """Return a row for each reference, size and kind of comparison, with the tensor that lies furthest off."""
    rows = ["| reference | size | what | compared | largest absolute difference | relative | worst |", "|" + "---|" * 7]
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for difference in SEEN:
        groups.setdefault((difference.reference, difference.size, difference.kind), []).append(difference)
    for (reference, size, kind), group in sorted(groups.items()):
        absolute, worst = max(one.absolute for one in group), max(group, key=lambda one: one.relative)
        name = worst.what.partition(": ")[2]
        rows.append(
            f"| {reference} | {size} | {kind} | {len(group)} | {absolute:.1e} | {worst.relative:.1e} | {name} |"
        )
    return "\n".join(rows)
