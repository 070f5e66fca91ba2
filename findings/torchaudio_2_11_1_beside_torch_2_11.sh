#!/usr/bin/env bash
# torchaudio 2.11.1 asks for "torch>=2.11" and cannot be loaded beside torch 2.11.0 or 2.12.0; 2.11.0 asks for no torch
# at all and can, but not beside 2.9.1, nor beside 2.15.0, whose CUDA is another. Both install without a word.
#
# One guesses: a requirement that pip accepts gives a torchaudio that loads, as since torchaudio 0.10, where each wheel
# named its torch exactly; and the newest patch release is the safest. But 2.11.1 needs a symbol that torch has from 2.13
# on, so `pip install torch==2.11.0 torchaudio` brings a pair whose import fails.
#
# Seen on 2026-11-28, Python 3.12, x86-64, wheels of PyPI:
#   torch    torchaudio 2.11.0                                  torchaudio 2.11.1
#   2.11.0   loads                                              undefined symbol: torch_exception_get_what_without_backtrace
#   2.12.0   loads                                              the same
#   2.13.0   loads                                              loads
#   2.14.1   loads                                              loads
#   2.15.0   CUDA version 13.2 whereas TorchAudio has 13.0      loads
# This script tries torch 2.11.0 and 2.15.0. Downloads 6 GB. Exits 1 when it finds something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

try() {  # torch, torchaudio, what the import shall end with
    pip install "torchaudio==$2" --no-deps
    local said
    said=$("$folder/venv/bin/python" -W ignore -c "
import torch
try:
    import torchaudio
    print('loads')
except Exception as error:
    while error.__cause__ is not None:
        error = error.__cause__
    print(str(error).splitlines()[0])" | tail -n 1)
    echo "torch $1, torchaudio $2: ${said##*/}"
    [[ $said == *"$3"* ]] || { echo "expected: $3"; exit 1; }
}

pip install torch==2.11.0 numpy==2.4.6
pip install torch==2.11.0 torchaudio==2.11.1 --dry-run  # pip finds nothing wrong
try 2.11.0 2.11.0 loads
try 2.11.0 2.11.1 "undefined symbol: torch_exception_get_what_without_backtrace"
pip install torch==2.15.0
try 2.15.0 2.11.0 "PyTorch has CUDA version 13.2 whereas TorchAudio has CUDA version 13.0"
try 2.15.0 2.11.1 loads
