"""The least that a training step can take: the matrix products it needs, at the rate this machine does each of them.

    bound.py --size base --task wav2vec2 hubert       counts, rates, bound, and where our step's time goes

What is counted, `speechssl/tasks/flops.py` says. Norms, activations, dropout, random numbers and the optimiser
are left out, so that the bound cannot be met. The positional convolution could do with fewer by Fourier transform.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from parts import seconds_by_part
from sizes import SIZES, VOCABULARY, Size, equal_batch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.model.frames import frame_count
from speechssl.tasks.flops import Product, trunk_products
from speechssl.tasks.hubert import masked_prediction_products
from speechssl.tasks.wav2vec2 import contrastive_products

__all__ = ["Product", "bound_s", "flops_by_part", "measure_rates", "step_products"]

LAYOUTS = ((False, False), (False, True), (True, False), (True, True))  # which operand lies transposed
TALLEST = 8192  # rows of what is measured; a taller product goes no faster


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
    frames = utterances * frame_count(samples, encoder.conv)
    trains_conv = not (task == "ctc" and size.ctc.freeze_conv)
    trunk = trunk_products(encoder, utterances, samples, is_training=task != "extract", trains_conv=trains_conv)
    match task:
        case "wav2vec2":
            return trunk + contrastive_products(size.contrastive, encoder, utterances, masked)
        case "hubert":
            head = size.masked_prediction
            return trunk + masked_prediction_products(head, encoder, size.clusters, frames=frames, masked=masked)
        case "ctc":
            return [*trunk, Product("heads", frames, encoder.transformer.dim, VOCABULARY)]
        case _:
            return trunk


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
