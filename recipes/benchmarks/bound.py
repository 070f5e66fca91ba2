"""The least that a training step can take: the matrix products it needs, at the rate this machine does each of them.

    bound.py --size base --task wav2vec2 hubert       counts, rates, bound, and where our step's time goes

Counted is what the mathematics asks for: each product forward, and its two gradients, without that of the waveform and
without those of a frozen extractor; layers that layer drop skips are not done. Norms, activations, dropout, random
numbers and the optimiser are left out, so that the bound cannot be met. Convolutions count as the products they are;
the positional one could do with fewer by Fourier transform.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from parts import seconds_by_part
from sizes import SIZES, VOCABULARY, Size, equal_batch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.model.conv import frame_count
from speechssl.model.encoder import EncoderConfig

__all__ = ["Product", "bound_s", "flops_by_part", "measure_rates", "step_products"]

LAYOUTS = ((False, False), (False, True), (True, False), (True, True))  # which operand lies transposed
TALLEST = 8192  # rows of what is measured; a taller product goes no faster


@dataclass(frozen=True)
class Product:
    """`batch` products of (rows, inner) with (inner, columns), `times` a step, and those of their gradients."""

    part: str
    rows: int
    inner: int
    columns: int
    batch: int = 1
    times: float = 1.0
    has_forward: bool = True
    has_left_gradient: bool = True  # of what has rows
    has_right_gradient: bool = True  # of the weights, or of the other activations

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """(batch, rows, inner, columns) of each product that is done, forward and backward."""
        found = [(self.batch, self.rows, self.inner, self.columns)] * self.has_forward
        found += [(self.batch, self.rows, self.columns, self.inner)] * self.has_left_gradient
        return found + [(self.batch, self.inner, self.rows, self.columns)] * self.has_right_gradient

    @property
    def flops(self) -> float:
        """Additions and multiplications in a step."""
        return len(self.shapes) * self.times * 2.0 * self.batch * self.rows * self.inner * self.columns


def step_products(size: Size, task: str, batch: Batch, masked: int) -> list[Product]:
    """List the products of one training step, or with task `extract` of one forward pass.

    Args:
        size: of the model.
        task: `wav2vec2`, `hubert`, `ctc` or `extract`.
        batch: all its rows count as long as the longest.
        masked: frames, in the whole batch.
    """
    encoder = size.ctc_encoder if task == "ctc" else size.encoder
    utterances, samples = batch.waveforms.shape
    trains_conv = not (task == "extract" or (task == "ctc" and size.ctc.freeze_conv))
    products = _extractor(encoder, utterances, samples, trains_conv)
    frames = frame_count(samples, encoder.conv)
    products += _trunk(encoder, utterances, frames, is_training=task != "extract")
    dim, conv_dim = encoder.transformer.dim, encoder.conv[-1][0]
    match task:
        case "wav2vec2":
            config, quantizer = size.contrastive, size.contrastive.quantizer
            own = max(masked // utterances, 1)
            products += [
                Product("heads", masked, conv_dim, quantizer.groups * quantizer.entries),
                # forward picks a row of the codebook; backward its gradient is needed for every entry
                Product(
                    "heads",
                    masked,
                    quantizer.entries,
                    quantizer.dim // quantizer.groups,
                    batch=quantizer.groups,
                    has_forward=False,
                    has_right_gradient=False,
                ),
                Product("heads", masked, quantizer.dim, config.dim),
                Product("heads", masked, dim, config.dim),
                Product("heads", own, config.dim, min(own, 1 + config.distractors), batch=utterances),
            ]
        case "hubert":
            config_ = size.masked_prediction
            rows = masked if config_.unmasked_weight == 0 else utterances * frames
            products.append(Product("heads", rows, dim, config_.dim * len(size.clusters)))
            products += [Product("heads", rows, config_.dim, clusters) for clusters in size.clusters]
        case "ctc":
            products.append(Product("heads", utterances * frames, dim, VOCABULARY))
    return products


def _extractor(encoder: EncoderConfig, utterances: int, samples: int, is_training: bool) -> list[Product]:
    products, in_channels = [], 1
    for index, (channels, kernel, _) in enumerate(encoder.conv):
        rows = utterances * frame_count(samples, encoder.conv[: index + 1])
        products.append(
            Product(
                f"extractor {index}",
                rows,
                in_channels * kernel,
                channels,
                has_left_gradient=is_training and index > 0,
                has_right_gradient=is_training,
            )
        )
        in_channels = channels
    return products


def _trunk(encoder: EncoderConfig, utterances: int, frames: int, *, is_training: bool) -> list[Product]:
    """List the products of projection, positions and layers; attention's own are those of weights and values."""
    transformer = encoder.transformer
    rows, dim, heads = utterances * frames, transformer.dim, transformer.num_heads
    groups, kernel = transformer.position_groups, transformer.position_kernel
    kept = transformer.num_layers * (1 - transformer.layer_drop if is_training else 1)

    def needed(part: str, rows: int, inner: int, columns: int, batch: int = 1, times: float = 1.0) -> Product:
        return Product(
            part,
            rows,
            inner,
            columns,
            batch,
            times,
            has_left_gradient=is_training,
            has_right_gradient=is_training,
        )

    return [
        needed("projection", rows, encoder.conv[-1][0], dim),
        needed("positions", rows, dim // groups * kernel, dim // groups, batch=groups),
        needed("attention, maps", rows, dim, 3 * dim, times=kept),
        needed("attention, products", frames, dim // heads, frames, batch=utterances * heads, times=kept),
        needed("attention, products", frames, frames, dim // heads, batch=utterances * heads, times=kept),
        needed("attention, maps", rows, dim, dim, times=kept),
        needed("feed-forward", rows, dim, transformer.ffn_dim, times=kept),
        needed("feed-forward", rows, transformer.ffn_dim, dim, times=kept),
    ]


def flops_by_part(products: Sequence[Product]) -> dict[str, float]:
    """Add up the operations of each part."""
    totals: dict[str, float] = {}
    for product in products:
        totals[product.part] = totals.get(product.part, 0.0) + product.flops
    return totals


Shape = tuple[int, int, int, int]


def measure_rates(products: Sequence[Product], repeats: int = 5) -> dict[Shape, float]:
    """Measure operations a second of every shape, in the layout of its operands that goes fastest.

    Args:
        products: whose shapes are measured.
        repeats: times that each is done in each layout, all in turn; medians count.
    """
    shapes = sorted({_cut(shape) for product in products for shape in product.shapes})
    times: dict[tuple[Shape, tuple[bool, bool]], list[float]] = {}
    for _ in range(repeats + 1):
        for shape in shapes:
            for layout in LAYOUTS:
                times.setdefault((shape, layout), []).append(_time_once(shape, *layout))
    best = {shape: min(statistics.median(times[shape, layout][1:]) for layout in LAYOUTS) for shape in shapes}
    return {shape: 2.0 * shape[0] * shape[1] * shape[2] * shape[3] / seconds for shape, seconds in best.items()}


def _time_once(shape: Shape, left_transposed: bool, right_transposed: bool) -> float:
    """Return the seconds of one product, of the shorter ones the mean of several."""
    batch, rows, inner, columns = shape

    def operand(height: int, width: int, is_transposed: bool) -> Tensor:
        size = (batch, width, height) if is_transposed else (batch, height, width)
        made = torch.ones(size) if batch > 1 else torch.ones(size[1:])
        return made.transpose(-1, -2) if is_transposed else made

    left, right = operand(rows, inner, left_transposed), operand(inner, columns, right_transposed)
    multiply = torch.bmm if batch > 1 else torch.mm
    out = multiply(left, right)
    count = max(1, int(2e8 / (2 * batch * rows * inner * columns)))
    start = time.perf_counter()
    for _ in range(count):
        multiply(left, right, out=out)
    return (time.perf_counter() - start) / count


def _cut(shape: Shape) -> Shape:
    """Cap what only repeats the same work: rows, or the inner side of a gradient of weights."""
    batch, rows, inner, columns = shape
    return batch, min(rows, TALLEST), min(inner, TALLEST), columns


def bound_s(products: Sequence[Product], rates: dict[Shape, float]) -> dict[str, float]:
    """Return the seconds that the products of each part take at the measured rates."""
    totals: dict[str, float] = {}
    for product in products:
        for shape in product.shapes:
            flops = product.times * 2.0 * shape[0] * shape[1] * shape[2] * shape[3]
            totals[product.part] = totals.get(product.part, 0.0) + flops / rates[_cut(shape)]
    return totals


def main() -> None:
    """Print counts, rates, bound and breakdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["base", "small"])
    parser.add_argument("--task", nargs="+", choices=("wav2vec2", "hubert", "ctc"), default=["wav2vec2", "hubert"])
    parser.add_argument("--steps", type=int, default=2, help="of ours that are taken apart")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.size:
        size = SIZES[name]()
        batch = equal_batch(size, seed=options.seed)
        for task in options.task:
            parts, masked = seconds_by_part(size, task, batch, options.steps)
            products = step_products(size, task, batch, masked)
            bounds = bound_s(products, measure_rates(products))
            print_parts(f"{name} {task}", flops_by_part(products), bounds, parts)


def print_parts(title: str, flops: dict[str, float], bounds: dict[str, float], parts: dict[str, float]) -> None:
    """Print one table: the parts of the bound, summed up as our step is, beside the seconds of our step."""
    print(f"\n{title}: {sum(flops.values()) / 1e9:.1f} GFLOP, {sum(bounds.values()):.3f} s of products, ", end="")
    print(f"{sum(flops.values()) / sum(bounds.values()) / 1e9:.0f} GFLOP/s; our step {sum(parts.values()):.3f} s\n")
    print("| part | GFLOP | products alone, s | GFLOP/s | ours, s | share of ours |")
    print("|---|---|---|---|---|---|")
    total = sum(parts.values())
    shown: dict[str, list[str]] = {}
    for part, count in flops.items():
        shown.setdefault(part.split()[0].rstrip(","), []).append(part)
        print(f"| {part} | {count / 1e9:.2f} | {bounds[part]:.4f} | {count / bounds[part] / 1e9:.0f} | | |")
    for part, seconds in parts.items():
        least = sum(bounds[each] for each in shown.get(part, []))
        bound = f"{least:.4f}" if least else ""
        print(f"| **{part}, in all** | | {bound} | | {seconds:.4f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    main()
