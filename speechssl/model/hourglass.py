"""Hourglass: middle layers of a Transformer that run on averages of neighbouring frames, at a fraction of the rate.

Hourglass Transformer (arXiv:2110.13711), with average pooling before the middle layers and repetition after them, added
to the frames that were averaged; it has no parameters. Groups are counted from the first frame of an utterance, and
only frames that the layers run on are averaged, so padding never leaks.
"""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.model.host import send
from speechssl.model.packing import LazyLayers, Packing

__all__ = ["FrameGroups", "HourglassConfig", "RestoredLayers"]


_MOST_FRAMES = 100  # of a group, two seconds of BASE; a shorter utterance is padded to a whole group


@configuration
class HourglassConfig:
    """The layers that run at a lower frame rate."""

    factor: int = 2  # frames that are averaged into one
    before: int = 1  # layers at the full rate, before those at the lower one
    after: int = 1  # layers at the full rate, after them

    def __post_init__(self) -> None:
        if not 2 <= self.factor <= _MOST_FRAMES or min(self.before, self.after) < 0:
            raise ConfigError(
                f"encoder.transformer.hourglass: expected factor from 2 to {_MOST_FRAMES}, before and after from 0 up, "
                f"found {self.factor}, {self.before} and {self.after}"
            )


class FrameGroups:
    """Groups of neighbouring frames of one batch."""

    def __init__(self, x: Tensor, is_present: Tensor, factor: int, packing: Packing | None) -> None:
        """Group frames.

        Args:
            x: (batch, frames, dim), or (valid, dim) if packed.
            is_present: (batch, frames) bool, frames that are averaged; should be on the host, to avoid a
                synchronisation.
            factor: frames of a group.
            packing: positions of the packed frames; None if `x` is padded.
        """
        self.x, self.factor, self.packing = x, factor, packing
        self.frames = is_present.shape[1]
        counts = functional.pad(is_present, (0, -self.frames % factor)).unflatten(1, (-1, factor)).sum(2)
        self.counts = send(counts, x.device)[..., None]  # (batch, groups, 1)
        self.is_present = send(is_present, x.device)
        # the groups that layers attend to, as in `SelfAttention`
        self.is_attended: Packing | Tensor | None = None
        if packing is not None:
            self.is_attended = Packing(counts > 0, x.device)
        elif not bool(is_present.all()):
            self.is_attended = self.counts[..., 0] > 0

    def averaged(self) -> Tensor:
        """Return the mean of each group's frames, (batch, groups, dim); or (groups, dim) without empty ones, packed."""
        if self.packing is None:
            padded = self.x.masked_fill(~self.is_present[..., None], 0)
        else:
            padded = self.packing.unpack(self.x)
        groups = functional.pad(padded, (0, 0, 0, -self.frames % self.factor)).unflatten(1, (-1, self.factor))
        mean = groups.sum(2) / self.counts.clamp(min=1)
        return self.is_attended.pack(mean) if isinstance(self.is_attended, Packing) else mean

    def restored(self, groups: Tensor) -> Tensor:
        """Add to each frame what layers made of its group.

        Args:
            groups: of the shape of `averaged`.

        Returns:
            (batch, frames, dim), or (valid, dim) if packed.
        """
        padded = self.is_attended.unpack(groups) if isinstance(self.is_attended, Packing) else groups
        repeated = padded.repeat_interleave(self.factor, 1)[:, : self.frames]
        return self.x + (repeated if self.packing is None else self.packing.pack(repeated))


class RestoredLayers(LazyLayers):
    """Outputs of all layers at the full frame rate; those at the lower one are restored on access."""

    def __init__(self, outputs: Sequence[Tensor], lower: range, restore: Callable[[Tensor], Tensor]) -> None:
        self.outputs, self.lower, self.restore = outputs, lower, restore

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.outputs)

    def at(self, index: int) -> Tensor:
        """Return the output of a layer."""
        output = self.outputs[index]
        return self.restore(output) if index in self.lower else output
