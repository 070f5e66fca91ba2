#!/usr/bin/env bash
# crowd-kit 1.4.2: ROVER gives a tie to the longer word, and a word always beats the gap; so the combination of two
# recognisers holds the insertions of both, and has twice the error rate of either.
#
# One guesses: a tie goes to the first system, or to the order of the table, as in other implementations of ROVER (Fiscus
# 1997), and two equal votes for "word" and "no word" are at worst a coin. But the vote takes the maximum of (votes,
# letters of the word, the word itself). Between two systems every place where they differ is a tie: what either of them
# inserted stays, what either of them deleted comes back, of two substitutes the longer stays, of two as long the later
# in the alphabet; the order of the systems is of no account. Three systems that say three different words are the same.
#
# Seen on 2026-11-30, Linux x86-64, Python 3.11:
#   crowd-kit 1.4.2: 'uh we sat in the the sun' of two systems with one insertion each, in either order; 'nightly' of
#   'nightly' and 'night'; 'tea' of 'sea' and 'tea'
# Exits 1 when it finds something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/rover.py" <<'PYTHON'
import sys
from importlib.metadata import version

import pandas
from crowdkit.aggregation import ROVER


def combined(*texts):
    """Return the combination of the transcripts of one utterance by several systems."""
    rows = [{"task": "utterance", "worker": f"system {number}", "text": text} for number, text in enumerate(texts)]
    rover = ROVER(tokenizer=str.split, detokenizer=" ".join, silent=True)
    return rover.fit_predict(pandas.DataFrame(rows))["utterance"]


pairs = [("uh we sat in the sun", "we sat in the the sun"), ("nightly", "night"), ("sea", "tea")]
found = [combined(*pair) for pair in pairs]
print(f"crowd-kit {version('crowd-kit')}: {found}; three systems: {combined('we sat', 'we', 'we')!r}")
sys.exit(
    found != ["uh we sat in the the sun", "nightly", "tea"]
    or found != [combined(*reversed(pair)) for pair in pairs]
    or combined("we sat", "we", "we") != "we"  # no tie
)
PYTHON
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install crowd-kit==1.4.2 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" -W ignore "$folder/rover.py"
