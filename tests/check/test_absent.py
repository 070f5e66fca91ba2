"""Audio that is not there is one line, with the cure."""

import pytest

from speechssl.__main__ import main


@pytest.fixture
def lists(tmp_path, write_wav, monkeypatch):
    """Write a manifest of five files that does not know where they are, and go elsewhere."""
    for i in range(5):
        write_wav(tmp_path / f"speech/s{i}.wav", 16_000 + i)
    rows = [f"s{i}\ts{i}.wav\t{16_000 + i}\t16000\t1\n" for i in range(5)]
    (tmp_path / "lists").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "lists/m.tsv").write_text("id\tpath\tsamples\trate\tchannels\n" + "".join(rows))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "lists"


def lines_of_check(capsys, *arguments):
    assert main(["manifest", "check", *map(str, arguments)]) == 1
    return [line for line in capsys.readouterr().out.splitlines() if "no such file" in line]


def test_a_root_that_was_not_named_is_one_line_that_names_it(lists, capsys):
    (line,) = lines_of_check(capsys, lists / "m.tsv")
    assert (
        line.split()
        == (
            f"no such file: 5 of 5 below {lists}: s0.wav, s1.wav, s2.wav, ...; s0.wav is in "
            f"{lists.parent}/speech: name it with --root {lists.parent}/speech "
            f"(in stages: data.root={lists.parent}/speech)"
        ).split()
    )


def test_files_that_are_nowhere_are_said_to_be(lists, capsys):
    for i in (1, 3):
        (lists.parent / f"speech/s{i}.wav").unlink()
    (line,) = lines_of_check(capsys, lists / "m.tsv", "--root", lists.parent / "speech")
    assert "2 of 5" in line
    assert "s1.wav, s3.wav; the others exist: copy these again, or remove their rows with --fix" in line
    for path in (lists.parent / "speech").iterdir():
        path.unlink()
    (line,) = lines_of_check(capsys, lists / "m.tsv")
    assert "name the folder that the paths start from with --root" in line


def test_a_single_file_that_is_missing_is_named_as_any_that_cannot_be_read(lists, capsys):
    (lists.parent / "speech/s1.wav").unlink()
    (line,) = lines_of_check(capsys, lists / "m.tsv", "--root", lists.parent / "speech")
    assert line.strip() == "s1: no such file; correct the manifest or its root"
