"""Transcripts in the formats of other tools: speechssl.asr.transcripts.transcript_formats."""

import json
from pathlib import Path

import pytest

from speechssl.asr.transcripts.timed import Timed, Transcript
from speechssl.asr.transcripts.transcript_formats import SUFFIXES, write_transcripts
from speechssl.errors import ConfigError
from speechssl.stages.score import read_hypotheses
from speechssl.units.phone_alignments import read_phones


def timed(*words: tuple[str, float, float]) -> tuple[Timed, ...]:
    return tuple(Timed(text=text, start_s=start, end_s=end, confidence=0.5) for text, start, end in words)


FIRST = Transcript(
    id="a b",
    text='one "two"',
    duration_s=2.0,
    words=timed(("one", 0.1, 0.5), ('"two"', 0.5, 1.25)),
    letters=timed(("o", 0.1, 0.2), ("n", 0.2, 0.4), ("e", 0.4, 0.5), ('"two"', 0.5, 1.25)),
    path="x.wav",
    start_s=3.0,
)
SILENT = Transcript(id="c", text="", duration_s=1.0)


def test_json_lines_hold_everything(tmp_path: Path) -> None:
    write_transcripts(tmp_path / "t.jsonl", [FIRST, SILENT])
    first, silent = map(json.loads, (tmp_path / "t.jsonl").read_text().splitlines())
    assert first["words"][1] == {"text": '"two"', "start": 0.5, "end": 1.25, "confidence": 0.5}
    assert (first["path"], first["start"], first["confidence"], len(first["letters"])) == ("x.wav", 3.0, 0.5, 4)
    assert silent == {"id": "c", "text": "", "duration": 1.0}


def test_tables_and_trn_are_read_by_the_scorer(tmp_path: Path) -> None:
    for name in ("t.tsv", "t.trn"):
        write_transcripts(tmp_path / name, [FIRST, SILENT])
        assert read_hypotheses(tmp_path / name) == {"a b": 'one "two"', "c": ""}


def test_ctm_has_start_and_length_of_each_word(tmp_path: Path) -> None:
    write_transcripts(tmp_path / "t.ctm", [FIRST, SILENT])
    assert (tmp_path / "t.ctm").read_text() == ('a%20b 1 0.100 0.400 one 0.5000\na%20b 1 0.500 0.750 "two" 0.5000\n')
    assert [row[:3] for row in read_phones(tmp_path / "t.ctm")["a b"]] == [(0.1, 0.5, "one"), (0.5, 1.25, '"two"')]


def test_textgrids_are_read_back(tmp_path: Path) -> None:
    (path,) = write_transcripts(tmp_path / "t.TextGrid", [FIRST])
    words = read_phones(path, tier="words")["t"]
    assert [(row.phone, row.start_s, row.end_s) for row in words] == [("one", 0.1, 0.5), ('"two"', 0.5, 1.25)]
    assert len(read_phones(path, tier="letters")["t"]) == 4
    assert "xmax = 2.000000" in path.read_text()


def test_formats_of_one_utterance_become_a_folder(tmp_path: Path) -> None:
    written = write_transcripts(tmp_path / "all.srt", [FIRST, SILENT])
    assert written == [tmp_path / "all/a b.srt", tmp_path / "all/c.srt"]
    assert written[1].read_text() == ""
    with pytest.raises(ConfigError, match=r"'../x': cannot be the name of a file"):
        write_transcripts(tmp_path / "all.srt", [FIRST, Transcript(id="../x", text="", duration_s=1.0)])
    assert not (tmp_path / "x.srt").exists()


ODD = ["a (1)", "a(1)", "(a)", "a\u00a0b", "a\u3000b", "a\u2028b", "a\x85b", "a\x0bb", "a\x1cb", ";;a", "#a", "a;;b",
       '"a"', "a\\b", "100%", "a%20b", " a", "a_b", "a b"]  # fmt: skip


@pytest.mark.parametrize("key", [*ODD, "a\tb", "a\nb", "a\rb"])
@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl", "t.trn", "t.ctm"])
def test_ids_of_any_signs_come_back_or_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, key: str
) -> None:
    words = timed(("one", 0.1, 0.5))
    given = [Transcript(id=one, text="one", duration_s=1.0, words=words) for one in ("first", key)]
    if name == "t.tsv" and key not in ODD:
        with pytest.raises(ConfigError, match=r"has a tab or line break in id or text; write \.jsonl"):
            write_transcripts(tmp_path / name, given)
        assert not [*tmp_path.iterdir()]
        return
    write_transcripts(tmp_path / name, given)
    found = read_phones(tmp_path / name) if name == "t.ctm" else read_hypotheses(tmp_path / name)
    assert [*found] == ["first", key]
    if name in ("t.trn", "t.ctm"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) == 2, "and nobody else cuts them elsewhere"
        assert len(text.split()) == (4 if name == "t.trn" else 12)


def test_no_file_is_written_where_one_of_the_ids_names_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a file"):
        write_transcripts(tmp_path / "all.srt", [FIRST, Transcript(id="../x", text="", duration_s=1.0)])
    assert not [*tmp_path.iterdir()]


def test_subtitles_break_at_pauses_and_when_they_are_long(tmp_path: Path) -> None:
    spoken = [(f"word{i}", 0.5 * i, 0.5 * i + 0.4) for i in range(20)]
    later = ("later", 30.0, 30.5)
    transcript = Transcript(id="x", text="", duration_s=31.0, words=timed(*spoken, later))
    write_transcripts(tmp_path / "x.srt", [transcript])
    blocks = (tmp_path / "x.srt").read_text().strip().split("\n\n")
    assert blocks[0].splitlines()[:2] == ["1", "00:00:00,000 --> 00:00:05,900"]
    assert blocks[-1].splitlines() == [str(len(blocks)), "00:00:30,000 --> 00:00:30,500", "later"]
    assert sum(len(block.splitlines()[2].split()) for block in blocks) == 21
    assert all(len(block.splitlines()[2]) <= 80 for block in blocks)


@pytest.mark.parametrize(
    ("text", "lines"),
    [("ab_cd_ab_e", ["ab_cd", "ab_e"]), ("abcdabe", ["abcd", "abe"]), ("a b | c d | a b | e", ["ab cd", "ab e"])],
)
def test_subtitles_have_between_words_what_the_text_has(tmp_path: Path, text: str, lines: list[str]) -> None:
    words = timed(("ab", 0.0, 0.1), ("cd", 0.1, 0.2), ("ab", 9.0, 9.1), ("e", 9.1, 9.2))
    write_transcripts(tmp_path / "x.srt", [Transcript(id="x", text=text, duration_s=10.0, words=words)])
    assert (tmp_path / "x.srt").read_text().splitlines()[2::4] == lines


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in one of .tsv, .jsonl, .trn, .ctm, .srt, .TextGrid"):
        write_transcripts(tmp_path / "t.doc", [FIRST])
    assert len(SUFFIXES) == 6
