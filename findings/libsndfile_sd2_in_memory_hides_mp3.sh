#!/usr/bin/env bash
# Writing SD2 to memory with soundfile leaves an empty file "._" in the current folder, and while a file of that name is
# there, libsndfile cannot read mp3 from memory or from an open file: "bad data offset". By its path it reads the same.
#
# One guesses: what is written to memory touches no disk, and what is read from memory depends on its bytes alone. But an
# SD2 file keeps its description in a resource fork, which libsndfile puts into "._NAME" beside it; without a name that is
# "._". In reading, a resource fork is looked for before mp3 is recognised, and if one is found, it is SD2. Folders that
# came from macOS are full of "._NAME"; one called "._" is enough for every mp3 in an archive, or at a URL, to be refused.
#
# Seen on 2026-11-29, soundfile 0.14.0 with its libsndfile 1.2.2, Linux x86-64:
#   SD2 to memory: ['._'] in the folder
#   mp3 from memory, "._" there: Error : bad data offset.; by its path: 24000 samples
#   mp3 from memory, "._" gone: 24000 samples
# Exits 1 when it finds something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install soundfile==0.14.0 numpy==2.4.6
mkdir "$folder/here"
cd "$folder/here"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import os
import sys

import numpy as np
import soundfile

print("soundfile", soundfile.__version__, "libsndfile", soundfile.__libsndfile_version__)
sound = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
soundfile.write("a.mp3", sound, 8000)
content = open("a.mp3", "rb").read()


def read(source):
    try:
        return f"{len(soundfile.read(source)[0])} samples"
    except soundfile.LibsndfileError as error:
        return error.error_string


def others():
    return sorted(set(os.listdir()) - {"a.mp3"})


before = others()
soundfile.write(io.BytesIO(), sound, 16_000, format="SD2", subtype="PCM_16")
left = others()
print("SD2 to memory:", left, "in the folder")
hidden, by_path = read(io.BytesIO(content)), read("a.mp3")
print(f'mp3 from memory, "._" there: {hidden}; by its path: {by_path}')
os.unlink("._")
found = read(io.BytesIO(content))
print(f'mp3 from memory, "._" gone: {found}')
is_so = (before, left, by_path, found) == ([], ["._"], "24000 samples", "24000 samples") and hidden != found
sys.exit(0 if is_so else 1)
PYTHON
