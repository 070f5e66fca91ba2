#!/usr/bin/env bash
# torch.export refuses a free length where an elementwise operation meets a convolution's output with the channels put
# last, as every speech encoder puts them before its first norm: the length, it says, "must" satisfy 1 % frames != 0.
#
# One guesses: ReLU does not look at strides, and moving it across a transposition changes nothing; torch 2.9.1 agrees and
# exports all three forms below. From 2.11 on (2.11.0 and 2.15.0 were tried) the layout of the result is asked for by
# symbolic strides, and one of the questions has a frame count for divisor: no range of lengths satisfies the guard, so
# the export fails, strict or not, and the message suggests to give the length up. A copy in between, `contiguous()`, or
# the operation before the transposition, and it exports. GELU, SiLU, tanh, `2 * x` and `x + bias` were seen to do the same.
#
# Seen on 2026-11-29 (Python 3.12, x86-64):
#                                    torch 2.9.1    torch 2.15.0
#   relu(conv(x).transpose(1, 2))    exports        UserError: Constraints violated (time): ... (1 % ...) != 0
#   the same after contiguous()      exports        exports
#   relu(conv(x)).transpose(1, 2)    exports        exports
# Exits 1 when another form is refused, or none. Downloads 6 GB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3}
cat >"$folder/export.py" <<'PYTHON'
import logging
import sys

import torch
from torch import nn

logging.disable(logging.CRITICAL)  # it logs what it then raises
print("torch", torch.__version__)
FORMS = {
    "transposed": lambda conv, x: conv(x).transpose(1, 2).relu(),
    "transposed, copied": lambda conv, x: conv(x).transpose(1, 2).contiguous().relu(),
    "transposed afterwards": lambda conv, x: conv(x).relu().transpose(1, 2),
}


class Extractor(nn.Module):
    """One convolution over a waveform, as wav2vec 2.0's first: a window of 10 samples, a step of 5."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv1d(1, 4, 10, 5), form

    def forward(self, waveforms):
        return self.form(self.conv, waveforms[:, None])


seen = {}
for name, form in FORMS.items():
    for strict in (False, True):
        time = torch.export.Dim("time", min=1000, max=160_000)
        model = Extractor(form).eval()
        try:
            program = torch.export.export(model, (torch.randn(2, 16_000),), dynamic_shapes=({1: time},), strict=strict)
        except Exception as error:
            guard = next((line.strip() for line in str(error).splitlines() if "1 % " in line), "")
            seen[name, strict] = f"{type(error).__name__}: {guard}" if guard else repr(error)
        else:
            other = torch.randn(2, 8_000)
            seen[name, strict] = "exports" if torch.allclose(program.module()(other), model(other)) else "differs"
        print(f"  {name:22} strict={strict!s:5} {seen[name, strict][:150]}")
refused = [key for key, found in seen.items() if found.startswith("UserError: ")]
is_new = sys.argv[1] == "refuses"
expected = [("transposed", False), ("transposed", True)] if is_new else []
sys.exit(0 if refused == expected and all(v == "exports" for k, v in seen.items() if k not in expected) else 1)
PYTHON
while read -r package expected; do
    "$python" -m venv --clear "$folder/venv"
    "$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install "$package" numpy==2.4.6 </dev/null
    "$folder/venv/bin/python" -W ignore "$folder/export.py" "$expected" </dev/null
done <<'VERSIONS'
torch==2.9.1 exports
torch==2.15.0 refuses
VERSIONS
