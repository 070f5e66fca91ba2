"""A sample of frames drawn in bounded memory: speechssl.units.reservoir."""

import torch

from speechssl.parallel import Ranks
from speechssl.units.reservoir import FrameSample

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
COUNTS = {f"u{i}": 5 + 7 * i for i in range(30)}
FRAMES = sum(COUNTS.values())


def frames_of(utterance: str) -> torch.Tensor:
    """Return (frames, 2): numbers of utterance and frame."""
    number = float(utterance[1:])
    return torch.stack([torch.full((COUNTS[utterance],), number), torch.arange(COUNTS[utterance]).float()], 1)


def draw(size: int, *, order: list[str] | None = None, piece: int = 10**9, seed: int = 0) -> list[torch.Tensor]:
    """Return a sample of two layers, the second ten times the first."""
    sample = FrameSample(size, 2, num_layers=2, seed=seed)
    for utterance in order or list(COUNTS):
        for number, part in enumerate(frames_of(utterance).split(piece)):
            sample.add(utterance, [part, 10 * part], start=number * piece, num_frames=COUNTS[utterance])
    return sample.gather(ALONE)


def test_the_sample_has_so_many_different_frames_of_the_input():
    found = draw(200)[0]
    assert found.shape == (200, 2)
    assert len(found.unique(dim=0)) == 200
    everything = {tuple(row) for utterance in COUNTS for row in frames_of(utterance).tolist()}
    assert {tuple(row) for row in found.tolist()} <= everything


def test_layers_are_of_the_same_frames():
    first, second = draw(200)
    assert torch.equal(10 * first, second)


def test_the_sample_depends_neither_on_the_order_nor_on_the_pieces():
    expected = draw(200)[0]
    assert torch.equal(draw(200, order=sorted(COUNTS, reverse=True))[0], expected)
    assert torch.equal(draw(200, piece=3)[0], expected)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one():
    assert torch.equal(draw(50)[0], draw(1000)[0][:50])


def test_seeds_differ():
    assert not torch.equal(draw(200, seed=1)[0], draw(200)[0])


def test_all_frames_are_kept_if_there_are_no_more():
    assert len(draw(FRAMES + 5)[0]) == FRAMES


def test_frames_are_drawn_alike_wherever_they_lie():
    drawn = torch.zeros(30)
    for seed in range(40):
        drawn += torch.bincount(draw(300, seed=seed)[0][:, 0].long(), minlength=30)
    expected = 40 * 300 * torch.tensor([float(count) for count in COUNTS.values()]) / FRAMES
    assert ((drawn - expected).square() / expected).sum() < 60  # chi-square of 29 degrees: 0.999 lies at 58.3


def test_memory_is_that_of_the_sample_not_of_the_frames():
    sample = FrameSample(100, 4, seed=0)
    for number in range(50):
        sample.add(f"u{number}", [torch.zeros(1000, 4)], start=0, num_frames=1000)
    assert sum(layer.untyped_storage().nbytes() for layer in sample._layers) <= 1.3 * 100 * 4 * 4
    assert sample.gather(ALONE)[0].shape == (100, 4)


def test_no_frames_make_an_empty_sample():
    (found,) = FrameSample(10, 4, seed=0).gather(ALONE)
    assert found.shape == (0, 4)
