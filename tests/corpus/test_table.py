"""Tables: cells that are missing or too many, numbers that are none, quotes and commas in texts."""

import pytest

from speechssl.corpus.formats.exchange import import_manifest
from speechssl.errors import ManifestError


@pytest.fixture
def read(tmp_path, write_wav):
    """Give a function that reads a table of these lines, beside one recording."""
    write_wav(tmp_path / "a.wav", 800)

    def read_lines(*lines: str, name: str = "t.csv"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return import_manifest(tmp_path / name, "table")[0].utterances

    return read_lines


@pytest.mark.parametrize("row", ["a.wav", "a.wav,x,y"])
def test_rows_with_other_numbers_of_cells_are_named(read, row):
    with pytest.raises(ManifestError, match=r"t\.csv:2: expected 2 cells, as many as the first line names"):
        read("path,text", row)


@pytest.mark.parametrize("number", ["-800", "8e2", "x", "9" * 5000])
def test_numbers_that_are_none_are_named(read, number):
    with pytest.raises(ManifestError, match=r"t\.csv:2: samples is '.*', expected a whole number"):
        read("path,samples", f"a.wav,{number}")


def test_quotes_and_commas_are_part_of_a_text(read):
    assert read("path,text", 'a.wav,"yes, ""sir"""')[0].text == 'yes, "sir"'
    assert read("path\ttext", 'a.wav\t"yes, sir', name="t.tsv")[0].text == '"yes, sir'


def test_line_breaks_inside_of_quotes_are_refused_by_name(read):
    with pytest.raises(ManifestError, match=r"t\.csv:3: 'two\\nlines' has a tab or line break"):
        read("path,text", 'a.wav,"two\nlines"')
