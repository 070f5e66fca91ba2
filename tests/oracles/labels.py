"""Which labels the reference trains its frames on: fairseq's HubertDataset crops them, HubertModel picks from them."""

from collections.abc import Sequence

__all__ = ["reference_targets"]


def reference_targets(
    labels: Sequence[int], *, start: int, num_samples: int, num_frames: int, label_rate: int, ds: int
) -> list[int]:
    """Return the target of each frame that is kept.

    Args:
        labels: of the whole utterance.
        start: first sample of the crop.
        num_samples: length of the crop.
        num_frames: that the encoder makes of the crop.
        label_rate: labels a second.
        ds: samples from one frame to the next.
    """
    first = round(start * label_rate / 16_000)
    cropped = labels[first : first + round(num_samples * label_rate / 16_000)]
    ratio = label_rate * ds / 16_000
    if ratio * num_frames > len(cropped):
        num_frames = int(len(cropped) / ratio)
    return [int(cropped[int(frame * ratio)]) for frame in range(num_frames)]
