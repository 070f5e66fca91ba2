"""The corpus of formats: all of it, and of each kind what the installed libraries write. Made by `make.py`."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("imageio_ffmpeg", reason="the second decoder is imageio-ffmpeg's")

from tests.field.make import PROGRAMS, cases, write
from tests.field.table import judge, main

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
KNOWN = Path(__file__).with_name("TABLE.md")


def known_wrong() -> set[str]:
    """Return the files that the committed table names as wrong."""
    rows = [line.split(" | ") for line in KNOWN.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| ") for row in rows if row[-1].startswith("WRONG")}


@pytest.mark.parametrize("kind", ["odd_wav", "odd_flac", "odd_others", "odd_ogg", "names", "bad"])
def test_odd_files_are_read_as_they_are_or_refused(tmp_path: Path, kind: str) -> None:
    good = "libsndfile/wav_pcm_16.wav"  # without which nothing might be left to list
    wanted = [case for case in cases() if (case.name.startswith(kind) and case.by == "bytes") or case.name == good]
    written, failed = write(tmp_path, wanted)
    assert not failed
    wrong = {row.case.name: row.verdict for row in judge(tmp_path, written) if row.faults}
    assert {name: said for name, said in wrong.items() if name not in known_wrong()} == {}


@pytest.mark.field
@pytest.mark.skipif(any(shutil.which(name) is None for name in PROGRAMS), reason=f"needs {', '.join(PROGRAMS)}")
def test_all_formats_are_as_in_the_table() -> None:
    rows = main(None)
    assert len(rows) >= 150
    wrong = {row.case.name: row.verdict for row in rows if row.faults}
    assert {name: said for name, said in wrong.items() if name not in known_wrong()} == {}
    assert known_wrong() <= {*wrong}, "mended: write the table again"
