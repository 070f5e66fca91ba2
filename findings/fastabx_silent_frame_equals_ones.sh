#!/usr/bin/env bash
# fastabx 0.9.0 cannot tell a frame of zeros from a frame of equal positive numbers: their angular distance is 0, and a
# phone of one against a phone of the other scores 0.5, chance.
#
# One guesses: a vector without a direction is as far as can be from all others. `normalize_with_singularity` promises
# it: it extends vectors "to put the null vector at the maximal angular distance from any non-null vector". But the null
# vector is first replaced by equal numbers in all dimensions, and the dimension added to tell them apart is 1e-12, so
# its distance is that of the vector of ones: 0 from a constant frame, 1 from its negative, 0.33 from an axis of four
# dimensions. Zerospeech's evaluation, whose figures fastabx reproduces, does the same. Features after a ReLU, sparse
# codes and energies of digital silence have such frames.
#
# Seen on 2026-11-29, Linux x86-64, Python 3.12, torch 2.11.0:
#   fastabx 0.9.0: zeros against ones 0.5, against minus ones 0.0; distances 0.0, 1.0, 0.33
# Exits 1 when it finds something else. Python from 3.12 on: PYTHON names one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/silence.py" <<'PYTHON'
import sys
from importlib.metadata import version

import polars
import torch
from fastabx import Dataset, InMemoryAccessor, Score, Task
from fastabx.accessor import normalize_with_singularity
from fastabx.distance import angular_distance


def error(value):
    """Score a phone of frames of zeros against one of frames of `value`."""
    frames = torch.cat([torch.zeros(3, 4), torch.full((3, 4), value)])
    labels = polars.DataFrame({"phone": ["silence"] * 3 + ["other"] * 3})
    accessor = InMemoryAccessor({item: (item, item + 1) for item in range(6)}, frames, torch.device("cpu"))
    return Score(Task(Dataset(labels=labels, accessor=accessor), on="phone"), "angular", progress=False).collapse()


ones, axis = torch.ones(4), torch.tensor([1.0, 0, 0, 0])
frames = normalize_with_singularity(torch.stack([torch.zeros(4), ones, -ones, axis]))
distances = [round(each, 2) for each in angular_distance(frames[:1, None], frames[1:, None]).flatten().tolist()]
seen = error(1.0), error(-1.0)
print(f"fastabx {version('fastabx')}: zeros against ones {seen[0]}, against minus ones {seen[1]}; distances {distances}")
sys.exit((*seen, *distances) != (0.5, 0.0, 0.0, 1.0, 0.33))
PYTHON
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install \
    fastabx==0.9.0 torch==2.11.0 torchdtw==0.4.2 polars==1.39.3 numpy==2.4.6
"$folder/venv/bin/python" -W ignore "$folder/silence.py"
