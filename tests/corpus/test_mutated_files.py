"""Damaged files of every format: read as a manifest, or refused in one line; never a crash, nor a way out."""

import gzip
import random

import pytest

from speechssl.corpus.formats.exchange import Format, export_manifest, import_manifest
from speechssl.errors import SpeechSSLError

FILES: dict[Format, str] = {
    "fairseq": "x.tsv",
    "kaldi": "x",
    "nemo": "x.json",
    "lhotse": "x",
    "audiofolder": "speech",
    "table": "x.csv",
}
PIECES = [
    b"",
    b"\0",
    b"\n",
    b"\t",
    b"\xff",
    b'"',
    b"../",
    b"/",
    b"|",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"[",
    b"{}",
    b"9" * 5000,
]


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Cut, double or overwrite a stretch of bytes."""
    first, last = sorted(random_.randrange(len(content) + 1) for _ in range(2))
    last = min(last, first + random_.choice([0, 1, 2, 8, 10_000]))
    piece = random_.choice([*PIECES, content[first:last] * 2, random_.randbytes(3)])
    return content[:first] + piece + content[last:]


def try_damaged(corpus, form: Format, cases: int) -> tuple[int, int]:
    """Damage one file a case, and return how many were still read and how many refused."""
    target = corpus.root.parent / FILES[form]
    export_manifest(corpus, target, form)
    files = [path for path in (target.rglob("*") if target.is_dir() else [target]) if path.is_file()]
    files = [path for path in files if path.suffix not in (".wav", ".flac") and path.name != "spk2utt"]
    whole = {path: path.read_bytes() for path in files}
    read = refused = 0
    for case in range(cases):
        random_ = random.Random(case)
        path = random_.choice(files)
        packed = path.suffix == ".gz" and random_.random() < 0.8  # damage to the packed bytes is found by unpacking
        text = gzip.decompress(whole[path]) if packed else whole[path]
        path.write_bytes(gzip.compress(damaged(text, random_)) if packed else damaged(text, random_))
        try:
            found, _ = import_manifest(target, form, root=corpus.root)
        except SpeechSSLError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            read += 1
            for row in found.utterances:
                assert found.audio_path(row).resolve().is_relative_to(corpus.root.resolve())
        path.write_bytes(whole[path])
    return read, refused


@pytest.mark.parametrize("form", FILES)
def test_damage_is_read_or_refused(corpus, form):
    read, refused = try_damaged(corpus, form, cases=40)
    assert read + refused == 40
    assert read > 0
    assert refused > 5


@pytest.mark.slow
@pytest.mark.parametrize("form", FILES)
def test_much_damage_is_read_or_refused(corpus, form):
    read, refused = try_damaged(corpus, form, cases=1000)
    assert min(read, refused) > 20
