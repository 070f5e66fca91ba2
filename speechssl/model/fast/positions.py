"""CPU kernel of `speechssl.model.positions`: a wide grouped convolution over frames in the frequency domain."""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["correlate", "is_faster"]

BLOCK = 4  # length of the longest piece that is transformed whole, in kernels


def is_faster(x: Tensor, kernel: int) -> bool:
    """Return whether `correlate` is faster than the convolution for (batch, frames, dim).

    It is not where transforming the kernel dominates: for 250 frames of BASE the convolution takes half the time, for
    600 the same. The backward pass of the convolution is slower for any number of frames.
    """
    batch, frames, _ = x.shape
    is_short = frames <= BLOCK * kernel and batch * frames < frames + kernel
    return torch.is_grad_enabled() or not is_short


def correlate(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Correlate along time in the frequency domain, like `conv1d` with a padding of half a kernel.

    128 taps in time become one product per frequency. The Fourier transforms are matrix products themselves: so the
    kernel's transform and its gradient come out ordered by frequency, as the product over channels needs them.

    Args:
        x: (batch, frames, dim).
        weight: (dim, dim / groups, kernel), as in `nn.Conv1d`.
        groups: number of channel groups.

    Returns:
        (batch, frames, dim), the first `frames` outputs.
    """
    batch, frames, dim = x.shape
    width, kernel = weight.shape[1:]
    blocks = max(-(-frames // (BLOCK * kernel)), 1)  # the cost of a transform grows with the square of its length
    length = -(-frames // blocks)
    size = length + kernel - 1
    size += size % 2
    missing = (blocks - 1) * length + size - frames - kernel // 2
    x = functional.pad(x, (0, 0, kernel // 2, missing)).unfold(1, size, length)  # (batch, blocks, dim, size)
    to_frequency, from_frequency = _transforms(size, x)
    frequencies = len(to_frequency) // 2
    spectrum = to_frequency @ x.flatten(0, 1).mT  # (batch * blocks, 2 * frequencies, dim)
    spectrum = spectrum.view(-1, 2, frequencies, groups, width).permute(2, 3, 1, 0, 4)
    spectrum = spectrum.reshape(frequencies * groups, -1, width)  # real parts of all blocks, then imaginary parts
    kernels = to_frequency[:, :kernel] @ weight.reshape(-1, kernel).T
    real, imaginary = kernels.view(2, frequencies * groups, dim // groups, width)
    by_real, by_imaginary = spectrum @ real.mT, spectrum @ imaginary.mT  # (frequencies * groups, 2 * blocks, width)
    half = batch * blocks
    product = torch.stack(  # the kernel's spectrum is conjugated, for a correlation
        [by_real[:, :half] + by_imaginary[:, half:], by_real[:, half:] - by_imaginary[:, :half]]
    )
    product = product.view(2, frequencies, groups, half, -1).permute(3, 0, 1, 2, 4).reshape(half, 2 * frequencies, dim)
    return (from_frequency[:length] @ product).view(batch, -1, dim)[:, :frames]


def _transforms(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices of the real Fourier transform of an even `size`, and of its inverse.

    Returns:
        (size + 2, size) with real parts first, and (size, size + 2).
    """
    time = torch.arange(size, device=like.device)
    frequency = torch.arange(size // 2 + 1, device=like.device)
    angle = (time * frequency[:, None] % size).to(like.dtype) * (2 * math.pi / size)  # (frequencies, size)
    forward = torch.cat([angle.cos(), -angle.sin()])
    weight = torch.full((size // 2 + 1, 1), 2 / size, dtype=like.dtype, device=like.device)
    weight[0] = weight[-1] = 1 / size  # the others also stand for their mirrored negative frequencies
    return forward, (forward * weight.repeat(2, 1)).T
