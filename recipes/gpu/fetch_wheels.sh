#!/usr/bin/env bash
# Fetch what a machine with torch, torchaudio, triton, transformers and pytest still lacks for run.sh, as wheels in
# recipes/gpu/wheels, for a machine that reaches no package index. Carry that folder there, with the checkout.
#
#   recipes/gpu/fetch_wheels.sh             for Python 3.12 on x86-64 Linux
#   VERSION=3.13 recipes/gpu/fetch_wheels.sh
#
#   VERSION     of Python there (3.12)
#   PLATFORMS   tags of wheels that run there (manylinux up to 2.28, x86-64)
#   MOST_MIB    what the folder may weigh (60)
#   PYTHON      interpreter whose pip fetches (python3)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
version=${VERSION:-3.12}
most=${MOST_MIB:-60}
platforms=${PLATFORMS:-manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64}

fetch() {
    "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version "$version" \
        --implementation cp $(printf -- '--platform %s ' $platforms) --dest "$here/wheels" "$@"
}

rm -rf "$here/wheels"
mkdir -p "$here/wheels"
# what setup.py requires but for torch, torchaudio and numpy, which are there; error rates; what the tests need
fetch soundfile pydantic pyyaml rich safetensors typer jiwer fonttools hypothesis tqdm
rm -f "$here"/wheels/numpy-*
fetch --no-deps flash-kmeans==0.3.1 fastkmeans==0.5.0  # they would bring torch
size=$(du --summarize --block-size=MiB "$here/wheels" | cut -d M -f 1)
echo "$(ls "$here/wheels" | wc -l) wheels, $size MiB, in $here/wheels"
((size <= most)) || { echo "more than $most MiB: that is more than may be carried" >&2; exit 1; }
