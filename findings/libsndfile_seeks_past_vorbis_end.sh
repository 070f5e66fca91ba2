#!/usr/bin/env bash
# libsndfile, told to seek into the last page of an Ogg Vorbis file, gives samples that lie later in the file, by as many
# as the last page was cut by: with 192 samples cut, seek(32000) gives what a whole read has from 32192 on.
#
# One guesses: a seek in Vorbis is exact to the sample, as libsndfile counts samples from the pages' positions, and seeks
# anywhere before the last page are. But the last page's position says where the sound ends, which is before the end of
# what its packets decode to; libsndfile counts back from that position to where the page begins, as it may in all other
# pages. The number of samples read is right, no error is raised, and the end of the sound is filled with what was to be
# cut off. Up to a second at 16 kHz lies in a last page; reading a second from the end of each file, or its last seconds
# as an utterance, is enough.
#
# Seen on 2026-11-29, soundfile 0.14.0 with its libsndfile 1.2.2, Linux x86-64:
#   2.5 s at 16000 Hz, last page from 28800 on: seek(28000) right; seek(32000) gives the samples from 32192 on
#   5 s at 44100 Hz, last page from 201408 on: seek(200608) right; seek(204608) gives the samples from 204652 on
# Exits 1 when it finds something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install soundfile==0.14.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import soundfile

print("soundfile", soundfile.__version__, "libsndfile", soundfile.__libsndfile_version__)


def last_page(data):
    """Return the sample that the last page begins with: the position of the page before it (RFC 3533)."""
    at, ends = 0, []
    while at < len(data):
        segments = data[at + 26]
        ends.append(int.from_bytes(data[at + 6 : at + 14], "little"))
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return ends[-2]


def place(whole, rate, start):
    """Return the sample of a whole read with which the 2,000 after a seek agree, if there is one."""
    with soundfile.SoundFile("a.ogg") as sound:
        sound.seek(start)
        part = sound.read(2_000, dtype="float32")
    found = [i for i in range(start - 2_000, len(whole) - 2_000) if np.allclose(whole[i : i + 2_000], part, atol=1e-5)]
    return found[0] if found else None


seen = []
for rate, seconds in ((16_000, 2.5), (44_100, 5)):
    noise = np.random.default_rng(0).normal(0, 0.1, int(rate * seconds)).astype(np.float32)
    soundfile.write("a.ogg", noise, rate, format="OGG", subtype="VORBIS")
    whole = soundfile.read("a.ogg", dtype="float32")[0]
    begins = last_page(open("a.ogg", "rb").read())
    before, within = begins - 800, begins + 3_200
    found = place(whole, rate, before), place(whole, rate, within)
    print(f"{seconds} s at {rate} Hz, last page from {begins} on: seek({before}) gives the samples from {found[0]} on;")
    print(f"    seek({within}) gives the samples from {found[1]} on")
    seen.append(found[0] == before and found[1] is not None and found[1] > within and len(whole) == len(noise))
sys.exit(0 if all(seen) else 1)
PYTHON
