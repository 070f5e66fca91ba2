"""How well hidden units match phones: purities and PNMI, section IV-C of HuBERT (arXiv:2106.07447)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.data.labels import FrameLabels
from speechssl.errors import LabelError

__all__ = ["UnitQuality", "measure_units", "read_phones"]


@dataclass(frozen=True, kw_only=True)
class UnitQuality:
    """Figures over all frames that carry a phone."""

    pnmi: float  # mutual information of phone and unit, over the entropy of the phone
    phone_purity: float  # share of frames whose phone is the most frequent one of their unit
    cluster_purity: float  # share of frames whose unit is the most frequent one of their phone
    used: int  # units that occur
    frames: int


def read_phones(path: Path) -> dict[str, list[tuple[float, str]]]:
    """Read phone alignments: a header line, then `id<TAB>end:phone end:phone ...`, ends in seconds, ascending.

    Raises:
        LabelError: missing, or a row that does not parse.
    """
    alignments = {}
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LabelError(f"{path}: cannot read the phone alignments ({error.strerror})") from error
    for number, row in enumerate(rows[1:], start=2):
        key, found, text = row.partition("\t")
        cells = [cell.partition(":") for cell in text.split()]
        try:
            if not found or not all(phone for _, _, phone in cells):
                raise ValueError("no tab, or an end without a phone")
            alignments[key] = [(float(end), phone) for end, _, phone in cells]
        except ValueError as error:
            raise LabelError(f"{path}:{number}: expected `id<TAB>end:phone ...`, found {row[:60]!r}") from error
    return alignments


def measure_units(labels: FrameLabels, alignments: Mapping[str, Sequence[tuple[float, str]]]) -> UnitQuality:
    """Compare units with phones, each frame taken at its centre; frames past the last phone are left out.

    Raises:
        LabelError: no utterance has both units and phones.
    """
    names = sorted({phone for alignment in alignments.values() for _, phone in alignment})
    index = {name: i for i, name in enumerate(names)}
    joint = np.zeros((len(names), labels.source.clusters), dtype=np.int64)
    for key, units in labels.units.items():
        if not alignments.get(key):
            continue
        ends = np.array([end for end, _ in alignments[key]])
        phones = np.array([index[phone] for _, phone in alignments[key]])
        centres = (np.arange(len(units)) * labels.source.hop + labels.source.window / 2) / 16_000
        segment = np.searchsorted(ends, centres, side="right")
        is_inside = segment < len(ends)
        np.add.at(joint, (phones[segment[is_inside]], units[is_inside]), 1)
    if not joint.sum():
        raise LabelError("no utterance has both units and a phone alignment; the alignment file is of another corpus")
    return quality_of_counts(joint)


def quality_of_counts(joint: np.ndarray) -> UnitQuality:
    """Compute the figures from (phones, units) frame counts."""
    total = joint.sum()
    share = joint / total
    phone, unit = share.sum(1), share.sum(0)
    is_seen = share > 0
    information = (share[is_seen] * np.log(share[is_seen] / np.outer(phone, unit)[is_seen])).sum()
    entropy = -(phone[phone > 0] * np.log(phone[phone > 0])).sum()
    return UnitQuality(
        pnmi=float(information / entropy) if entropy > 0 else 0.0,
        phone_purity=float(joint.max(0).sum() / total),
        cluster_purity=float(joint.max(1).sum() / total),
        used=int((unit > 0).sum()),
        frames=int(total),
    )
