"""Items of a few phones, contexts and speakers, with features drawn at random."""

from collections.abc import Sequence

import numpy as np

from speechssl.downstream.abx import ItemFrames
from speechssl.downstream.phone_items import PhoneItem, frames_of

__all__ = ["HOP", "drawn_items", "frames_for"]

HOP = 320


def drawn_items(
    count: int = 60, *, phones: str = "abc", speakers: str = "st", dim: int = 4, seed: int = 0
) -> tuple[list[PhoneItem], np.ndarray]:
    """Return items that follow one another in an utterance `u`, and its (frames, dim) float32 features."""
    random = np.random.default_rng(seed)
    items, frame = [], 0
    for _ in range(count):
        end = frame + int(random.integers(1, 6))
        items.append(
            PhoneItem(
                utterance="u",
                onset_s=round(frame * 0.02, 2),
                offset_s=round(end * 0.02, 2),
                phone=str(random.choice(list(phones))),
                previous=str(random.choice(list("xy"))),
                next="z",
                speaker=str(random.choice(list(speakers))),
            )
        )
        frame = end
    centres = random.normal(size=(len(phones), dim))
    features = random.normal(size=(frame, dim))
    for item in items:
        features[slice(*frames_of(item, hop=HOP))] += centres[phones.index(item.phone)]
    return items, features.astype(np.float32)


def frames_for(items: Sequence[PhoneItem], features: np.ndarray) -> ItemFrames:
    """Return the frames of all items."""
    frames = ItemFrames(items, range(len(items)), dim=features.shape[1], hop=HOP)
    frames.add("u", features)
    return frames
