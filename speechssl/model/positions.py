"""Relative positions by a wide grouped convolution over frames: wav2vec 2.0 (arXiv:2006.11477), section 2."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["PositionalConv", "correlate"]

BLOCK = 4  # kernels in the longest piece that is transformed whole


class PositionalConv(nn.Module):
    """The convolution, weight-normed over its kernel, and GELU."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=(4 / (kernel * dim)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv, dim=2)
        self.surplus = 1 if kernel % 2 == 0 else 0  # an even kernel pads one frame too many

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, frames, dim) to be added to `x` (batch, frames, dim)."""
        if torch.compiler.is_exporting() or self._is_convolved_in_half(x) or self._is_short(x):
            positions = self.conv(x.transpose(1, 2)).transpose(1, 2)
            positions = positions[:, : x.shape[1]] if self.surplus else positions
            return functional.gelu(positions.contiguous())  # as in conv.py: torch 2.15 could not export it otherwise
        with torch.autocast(x.device.type, enabled=False):
            return functional.gelu(
                correlate(x.to(self.conv.bias.dtype), self.conv.weight, self.conv.groups) + self.conv.bias
            )

    def _is_convolved_in_half(self, x: Tensor) -> bool:
        """Say whether the convolution is left to autocast, in 16 bits.

        Not that of narrow groups on a CPU: with fewer than 16 channels a group and a kernel of 8 or more, oneDNN's on
        processors with AMX gives numbers that have nothing to do with the right ones (torch 2.9.1 to 2.15.0).
        """
        is_narrow = self.conv.in_channels // self.conv.groups < 16
        return torch.is_autocast_enabled(x.device.type) and not (is_narrow and x.device.type == "cpu")

    def _is_short(self, x: Tensor) -> bool:
        """Say whether the convolution itself is faster: where there is less to convolve than kernel to transform.

        Half the time for 250 frames of BASE on a CPU, as much for 600; its backward pass is slower for any number.
        """
        (batch, frames, _), (kernel,) = x.shape, self.conv.kernel_size
        is_less = frames <= BLOCK * kernel and batch * frames < frames + kernel
        return is_less and x.device.type == "cpu" and not torch.is_grad_enabled()


def correlate(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Correlate along time as `conv1d` does with half a kernel of padding, by way of frequencies.

    128 taps in time are one product a frequency. The Fourier transforms are matrix products themselves: the kernel's
    comes out ordered by frequency, as the product over channels wants it, and so does its gradient.

    Args:
        x: (batch, frames, dim).
        weight: (dim, dim / groups, kernel), as in `nn.Conv1d`.
        groups: of channels that do not see each other.

    Returns:
        (batch, frames, dim), the first `frames` outputs.
    """
    batch, frames, dim = x.shape
    width, kernel = weight.shape[1:]
    blocks = max(-(-frames // (BLOCK * kernel)), 1)  # long utterances in blocks: transforms grow with their square
    length = -(-frames // blocks)
    size = length + kernel - 1
    size += size % 2
    missing = (blocks - 1) * length + size - frames - kernel // 2
    x = functional.pad(x, (0, 0, kernel // 2, missing)).unfold(1, size, length)  # (batch, blocks, dim, size)
    to_frequency, from_frequency = _transforms(size, x)
    frequencies = len(to_frequency) // 2
    spectrum = to_frequency @ x.flatten(0, 1).mT  # (batch * blocks, 2 * frequencies, dim)
    spectrum = spectrum.view(-1, 2, frequencies, groups, width).permute(2, 3, 1, 0, 4)
    spectrum = spectrum.reshape(frequencies * groups, -1, width)  # real parts of all blocks, then imaginary ones
    kernels = to_frequency[:, :kernel] @ weight.reshape(-1, kernel).T
    real, imaginary = kernels.view(2, frequencies * groups, dim // groups, width)
    by_real, by_imaginary = spectrum @ real.mT, spectrum @ imaginary.mT  # (frequencies * groups, 2 * blocks, width)
    half = batch * blocks
    product = torch.stack(  # the kernel's spectrum is conjugated: a correlation
        [by_real[:, :half] + by_imaginary[:, half:], by_real[:, half:] - by_imaginary[:, :half]]
    )
    product = product.view(2, frequencies, groups, half, -1).permute(3, 0, 1, 2, 4).reshape(half, 2 * frequencies, dim)
    return (from_frequency[:length] @ product).view(batch, -1, dim)[:, :frames]


def _transforms(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real Fourier transform of `size`, even, and its inverse.

    Returns:
        (size + 2, size) with real parts first, and (size, size + 2).
    """
    time = torch.arange(size, device=like.device)
    frequency = torch.arange(size // 2 + 1, device=like.device)
    angle = (time * frequency[:, None] % size).to(like.dtype) * (2 * math.pi / size)  # (frequencies, size)
    forward = torch.cat([angle.cos(), -angle.sin()])
    weight = torch.full((size // 2 + 1, 1), 2 / size, dtype=like.dtype, device=like.device)
    weight[0] = weight[-1] = 1 / size  # the others stand for their mirror image too
    return forward, (forward * weight.repeat(2, 1)).T
