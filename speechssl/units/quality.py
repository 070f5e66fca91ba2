"""Quality of hidden units: agreement with phones (section IV-C of HuBERT, arXiv:2106.07447), usage, segment lengths.

Only counts are kept, so that a corpus is measured utterance by utterance in constant memory.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.labels import FrameLabels
from speechssl.errors import LabelError
from speechssl.units.phone_alignments import Interval, read_phones

__all__ = [
    "FeatureSpread",
    "UnitQuality",
    "UnitTally",
    "measure_units",
    "mutual_information",
    "read_phones",
    "segments_of_frames",
]


@dataclass(frozen=True, kw_only=True)
class UnitQuality:
    """Measures over all frames with a phone."""

    pnmi: float  # mutual information of phone and unit, divided by the entropy of the phone
    phone_purity: float  # share of frames whose phone is the most frequent one of their unit
    cluster_purity: float  # share of frames whose unit is the most frequent one of their phone
    used: int  # number of units that occur
    coverage: float  # share of units that occur
    perplexity: float  # exp of the entropy of the units: the effective number of units
    unit_segment_s: float  # mean length of a run of one unit, in seconds
    phone_segment_s: float  # mean length of a phone, in seconds
    frames: int


def segments_of_frames(
    intervals: Sequence[Interval], frames: int, *, hop: int, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the interval at the centre of each frame.

    Args:
        intervals: at least one, ascending.
        frames: number of frames.
        hop: samples from one frame to the next.
        window: samples that a frame depends on.

    Returns:
        (frames,) int64 indices of intervals, and (frames,) bool, False in a gap or past the last interval.
    """
    starts, ends = np.array([interval[:2] for interval in intervals]).T
    centres = (np.arange(frames) * hop + window / 2) / SAMPLE_RATE
    segment = np.searchsorted(ends, centres, side="right").clip(max=len(ends) - 1)
    return segment, (starts[segment] <= centres) & (centres < ends[segment])


def mutual_information(share: np.ndarray) -> float:
    """Return the mutual information, in nats, of a joint distribution (one, other) that sums to 1."""
    is_seen = share > 0
    independent = np.outer(share.sum(1), share.sum(0))
    return float((share[is_seen] * np.log(share[is_seen] / independent[is_seen])).sum())


class UnitTally:
    """Counts how often each phone meets each unit, and the runs of equal units."""

    def __init__(self, phones: Iterable[str], clusters: int, *, hop: int, window: int) -> None:
        """Start with zero counts.

        Args:
            phones: names of all phones.
            clusters: number of units.
            hop: samples from one unit to the next.
            window: samples that the feature of a unit depends on; a frame gets the phone at its centre.
        """
        self.hop, self.window = hop, window
        self._index = {phone: i for i, phone in enumerate(sorted(set(phones)))}
        self._joint = np.zeros((len(self._index), clusters), dtype=np.int64)
        self._runs = 0
        self._phones = 0
        self._phones_s = 0.0

    def add(self, units: np.ndarray, intervals: Sequence[Interval]) -> None:
        """Count one utterance.

        Args:
            units: (frames,) int.
            intervals: phones of the utterance, ascending; frames in a gap or past the last phone are left out.
        """
        if not intervals or not len(units):
            return
        phones = np.array([self._index[interval.phone] for interval in intervals])
        segment, is_inside = segments_of_frames(intervals, len(units), hop=self.hop, window=self.window)
        cells = phones[segment[is_inside]] * self._joint.shape[1] + units[is_inside]
        self._joint += np.bincount(cells, minlength=self._joint.size).reshape(self._joint.shape)
        is_first = np.r_[True, (units[1:] != units[:-1]) | ~is_inside[:-1]]
        self._runs += int((is_inside & is_first).sum())
        self._phones += len(intervals)
        self._phones_s += sum(interval.end_s - interval.start_s for interval in intervals)

    def quality(self) -> UnitQuality:
        """Compute the measures.

        Raises:
            LabelError: no frame has a phone.
        """
        frames = int(self._joint.sum())
        if not frames:
            raise LabelError(
                "no utterance has both units and a phone alignment; the alignment file is of another corpus"
            )
        share = self._joint / frames
        phone, unit = share.sum(1), share.sum(0)
        entropy = _entropy(phone)
        used = int((unit > 0).sum())
        return UnitQuality(
            pnmi=mutual_information(share) / entropy if entropy > 0 else 0.0,
            phone_purity=float(share.max(0).sum()),
            cluster_purity=float(share.max(1).sum()),
            used=used,
            coverage=used / len(unit),
            perplexity=math.exp(_entropy(unit)),
            unit_segment_s=frames * self.hop / SAMPLE_RATE / self._runs,
            phone_segment_s=self._phones_s / self._phones,
            frames=frames,
        )


def measure_units(labels: FrameLabels, alignments: Mapping[str, Sequence[Interval]]) -> UnitQuality:
    """Compare units with the phones at the centres of their frames; frames without a phone are left out.

    Raises:
        LabelError: no utterance has both units and phones.
    """
    names = {interval.phone for intervals in alignments.values() for interval in intervals}
    source = labels.source
    tally = UnitTally(names, source.clusters, hop=source.hop, window=source.window)
    for key, units in labels.units.items():
        tally.add(units, alignments.get(key, ()))
    return tally.quality()


class FeatureSpread:
    """Mean and scatter matrix of features, accumulated in float64, for their effective rank.

    Parts are merged as in Chan, Golub and LeVeque (1983), which is robust to a large common offset.
    """

    def __init__(self, dim: int) -> None:
        """Start without features, in `dim` dimensions."""
        self.dim = dim
        self.count = 0
        self._mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))

    def add(self, features: np.ndarray) -> None:
        """Add (frames, dim) features."""
        if not len(features):
            return
        features = features.astype(np.float64)
        mean = features.mean(0)
        offset, total = mean - self._mean, self.count + len(features)
        centred = features - mean
        self._scatter += centred.T @ centred + np.outer(offset, offset) * (self.count * len(features) / total)
        self._mean += offset * (len(features) / total)
        self.count = total

    def effective_rank(self) -> float:
        """Return exp of the entropy of the normalised singular values (Roy and Vetterli 2007), from 1 to dim.

        The singular values are those of the centred frames, so that a constant offset does not count. 0 if all frames
        are equal.
        """
        singular = np.sqrt(self.variances())
        return math.exp(_entropy(singular / singular.sum())) if singular.sum() > 0 else 0.0

    def variances(self) -> np.ndarray:
        """Return the (dim,) summed squares of the centred frames along their main axes, ascending."""
        return np.linalg.eigvalsh(self._scatter).clip(min=0)


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
