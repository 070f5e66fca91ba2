#!/usr/bin/env bash
# On a CPU, the gradients of layer norm's weight and bias are lost when its input is bfloat16: torch adds them up in
# bfloat16, row after row, also under autocast and with a float32 weight. The more frames, the less is right.
#
# One guesses: float32 sums, as of a linear layer's bias, and as layer norm's own gradient for its input, which is right;
# and that autocast, which lists layer_norm among the operations it takes to float32 on CUDA, does so on CPUs too. It does
# not, and a sum in 8 bits stops growing once it is 256 times what is added. A minute of speech are 3,000 frames a layer
# at 50 Hz, of the first convolution of wav2vec 2.0 LARGE, which has a layer norm too, 192,000 steps.
#
# Seen on 2026-11-29 (Python 3.12, x86-64, one thread), error of the gradients against float64, weight and bias:
#                                          torch 2.9.1    torch 2.15.0
#   8,000 rows of 64                         0.10, 0.50     0.10, 0.50
#   128,000 rows of 64                       0.30, 0.95     0.30, 0.95
#   128,000 rows of 64, float32              0.00, 0.00     0.00, 0.00
#   a sum over 128,000 rows, as of a linear layer's bias, in bfloat16: 0.00
# Several threads have sums of their own, so that n of them lose what one does with an nth of the rows.
# Exits 1 when the gradients are right, or found otherwise. Downloads 6 GB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3}
cat >"$folder/norm.py" <<'PYTHON'
import sys

import torch
from torch.nn import functional

torch.set_num_threads(1)
print("torch", torch.__version__)


def gradients(rows, dtype, autocast):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 64, generator=generator)
    cotangent = 0.1 * torch.randn(rows, 64, generator=generator) + 0.02
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias, linear = (torch.ones(64, dtype=wide, requires_grad=True) for _ in range(3))
    x = x.bfloat16().to(dtype)  # the same numbers for all
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = functional.layer_norm(x, (64,), weight, bias)
        y.backward(cotangent.to(y.dtype))
        z = x + linear.to(x.dtype)
        z.backward(cotangent.to(z.dtype))
    return [each.grad.double() for each in (weight, bias, linear)]


def errors(rows, dtype, autocast=False):
    exact, found = gradients(rows, torch.float64, False), gradients(rows, dtype, autocast)
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, exact)]


seen = {}
for rows in (8_000, 128_000):
    for name, dtype, autocast in (
        ("bfloat16", torch.bfloat16, False),
        ("bfloat16, autocast", torch.bfloat16, True),
        ("float32", torch.float32, False),
    ):
        seen[rows, name] = errors(rows, dtype, autocast)
        print(f"{rows:7} rows, {name:19} weight {seen[rows, name][0]:.2f}, bias {seen[rows, name][1]:.2f}, "
              f"linear bias {seen[rows, name][2]:.2f}")
is_lost = all(seen[128_000, name][1] > 0.5 and seen[8_000, name][1] > 0.1 for name in ("bfloat16", "bfloat16, autocast"))
is_right_elsewhere = seen[128_000, "float32"][1] < 0.01 and seen[128_000, "bfloat16"][2] < 0.01
sys.exit(0 if is_lost and is_right_elsewhere else 1)
PYTHON
for package in torch==2.9.1 torch==2.15.0; do
    "$python" -m venv --clear "$folder/venv"
    "$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install "$package" numpy==2.4.6
    "$folder/venv/bin/python" -W ignore "$folder/norm.py"
done
