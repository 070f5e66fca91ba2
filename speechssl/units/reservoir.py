"""A random sample of frames for fitting k-means, drawn from any amount of audio in bounded memory.

Every frame has a random priority that depends only on the seed, the utterance and its position there; the frames with
the smallest priorities are kept. So the sample does not depend on the order of the utterances or the number of
processes.
"""

import torch
from torch import Tensor

from speechssl.data.batching import seeded_generator
from speechssl.parallel import Ranks

__all__ = ["FrameSample"]


class FrameSample:
    """The frames with the smallest priorities among those added, for several layers in parallel.

    Holds up to a quarter more than `size` frames, and twice as many of one layer while it drops the surplus.
    """

    def __init__(self, size: int, dim: int, *, num_layers: int = 1, seed: int) -> None:
        """Make room for `size` frames of `num_layers` x `dim` features."""
        self.size, self.seed = size, seed
        room = size + size // 4 + 1
        self._priorities = torch.empty(room, dtype=torch.float64)
        self._layers = [torch.empty(room, dim) for _ in range(num_layers)]
        self._held = 0
        self._limit = 1.0  # frames with a larger priority cannot enter the sample any more

    def add(self, utterance_id: str, layers: list[Tensor], *, start: int, num_frames: int) -> None:
        """Add frames of an utterance.

        Args:
            utterance_id: id of the utterance.
            layers: each (frames, dim), on any device.
            start: index of the first frame in the utterance.
            num_frames: number of frames of the whole utterance.
        """
        generator = seeded_generator(self.seed, "priorities of frames", utterance_id)
        drawn = torch.rand(num_frames, generator=generator, dtype=torch.float64)[start : start + len(layers[0])]
        wanted = (drawn < self._limit).nonzero()[:, 0]
        while len(wanted):
            now = wanted[: len(self._priorities) - self._held]
            wanted = wanted[len(now) :]
            place = slice(self._held, self._held + len(now))
            self._priorities[place] = drawn[now]
            for held, layer in zip(self._layers, layers, strict=True):
                held[place] = layer[now.to(layer.device)].to("cpu", torch.float32)
            self._held += len(now)
            if self._held == len(self._priorities):
                self._drop_surplus()
                wanted = wanted[drawn[wanted] < self._limit]

    def gather(self, ranks: Ranks) -> list[Tensor]:
        """Return the sample of all ranks, the same on each: layers x (at most `size`, dim), by priority.

        Every prefix is a random sample too. This rank's frames are released.
        """
        self._drop_surplus()
        everywhere = torch.zeros(ranks.world_size, self.size, dtype=torch.float64, device=ranks.device)
        everywhere[ranks.rank] = 2.0  # marks empty places; priorities are below 1
        everywhere[ranks.rank, : self._held] = self._priorities[: self._held].to(ranks.device)
        everywhere = ranks.sum(everywhere).flatten().cpu()
        chosen = everywhere.argsort(stable=True)[: min(self.size, int((everywhere < 1).sum()))]
        places = (chosen // self.size == ranks.rank).nonzero()[:, 0]
        rows = chosen[places] % self.size
        gathered = []
        while self._layers:
            layer = self._layers.pop(0)
            if ranks.world_size == 1:
                gathered.append(layer[: self._held])
                continue
            sample = torch.zeros(len(chosen), layer.shape[1], device=ranks.device)
            sample[places.to(ranks.device)] = layer[rows].to(ranks.device)
            gathered.append(ranks.sum(sample))
        return gathered

    def _drop_surplus(self) -> None:
        order = self._priorities[: self._held].argsort()[: self.size]
        self._held = len(order)
        self._priorities[: self._held] = self._priorities[order]
        for layer in self._layers:
            layer[: self._held] = layer[order]
        if self._held == self.size:
            self._limit = float(self._priorities[self._held - 1])
