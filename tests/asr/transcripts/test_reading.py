"""Texts of every form, on either side of a comparison, by utterance or by time."""

import json
import random
from pathlib import Path

import pytest

from speechssl.asr.transcripts.matching import same_utterances
from speechssl.asr.transcripts.transcript_reading import Span, Texts, Word, read_texts
from speechssl.errors import ManifestError

SAID = {"u1": "one two", "u2": "three"}
MANIFEST = "id\tpath\tsamples\trate\tchannels\ttext\nu1\ta/1.wav\t9\t9\t1\tone two\nu2\ta/2.wav\t9\t9\t1\tthree\n"
FORMS = {
    "m.tsv": MANIFEST,
    "t.tsv": "id\ttext\nu1\tone two\nu2\tthree\n",
    "bare.tsv": "u1\tone two\nu2\tthree\n",
    "more.tsv": "utt_id\tgender\ttranscript\nu1\tf\tone two\nu2\tm\tthree\n",
    "p.tsv": "id\tpath\ttext\nu1\ta/1.wav\tone two\nu2\ta/2.wav\tthree\n",
    "p.txt": "u1 a/1.wav one two\nu2 a/2.wav three\n",
    "headed.txt": "id text\nu1 one two\nu2 three\n",
    "t.csv": 'id,text\nu1,one two\n"u2",three\n',
    "semi.csv": "id;text\nu1;one two\nu2;three\n",
    "text": "u1 one two\nu2\tthree\n",
    "r.trn": "one two (u1)\nthree (u2)\n",
    "r.stm": ";; of a test\nu1 1 anna 0.0 1.5 <o,f0,female> one two\nu2 1 bert 0 1 three\n",
    "stm": "u1 A anna 0.0 1.5 one two\nu2 A bert 0 1 three\n",
    "r.ctm": ";; of a test\nu1 1 0.5 0.1 two 0.9\nu1 1 0.1 0.3 one\nu2 A 0 1 three\n",
    "n.jsonl": "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in SAID.items()),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("side", ["reference", "hypothesis"])
def test_every_form_is_read_on_either_side(tmp_path, name, side):
    (tmp_path / name).write_text(FORMS[name])
    assert read_texts(tmp_path / name, side).by_id() == SAID


def test_a_folder_of_kaldi_s_has_its_texts_in_text(tmp_path):
    (tmp_path / "text").write_text(FORMS["text"])
    assert read_texts(tmp_path).by_id() == SAID


def test_bars_in_lines_of_kaldi_part_words_of_letters(tmp_path):
    (tmp_path / "text").write_text("u1 o n e | t w o |\n")
    assert read_texts(tmp_path / "text").by_id() == {"u1": "o n e | t w o |"}
    (tmp_path / "list.txt").write_text("a/1.wav|one two\na/2.wav|three\n")
    assert read_texts(tmp_path / "list.txt").by_id() == {"a/1.wav": "one two", "a/2.wav": "three"}


def test_what_was_said_and_what_was_heard_are_told_apart_in_nemo_s_lines(tmp_path):
    (tmp_path / "n.json").write_text(
        '{"audio_filepath": "a/1.wav", "text": "one", "pred_text": "won", "duration": 2}\n'
    )
    (row,) = read_texts(tmp_path / "n.json", "reference").said
    assert (row.id, row.text, row.path, row.duration_s) == ("a-1", "one", "a/1.wav", 2.0)
    assert read_texts(tmp_path / "n.json", "hypothesis").by_id() == {"a-1": "won"}


def test_an_stm_knows_who_spoke_and_how_long(tmp_path):
    (tmp_path / "r.stm").write_text(FORMS["r.stm"])
    assert [(row.speaker, row.duration_s) for row in read_texts(tmp_path / "r.stm").said] == [
        ("anna", 1.5),
        ("bert", 1),
    ]


@pytest.mark.parametrize("form", ["m.tsv", "p.tsv", "n.json"])
def test_sides_that_name_the_audio_are_joined_by_it(tmp_path, form):
    (tmp_path / "m.tsv").write_text(MANIFEST)
    (tmp_path / "p.tsv").write_text("path\ttext\na/1.wav\tone two\na/2.wav\tthree\n")
    lines = [{"audio_filepath": f"/data/a/{i}.wav", "pred_text": text} for i, text in enumerate(SAID.values(), 1)]
    (tmp_path / "n.json").write_text("\n".join(map(json.dumps, lines)))
    assert same_utterances(read_texts(tmp_path / "m.tsv"), read_texts(tmp_path / form)) == SAID
    other = same_utterances(read_texts(tmp_path / form, "reference"), read_texts(tmp_path / "m.tsv"))
    assert sorted(other) == sorted(read_texts(tmp_path / form).by_id())


def test_files_of_one_name_in_two_folders_are_not_taken_for_each_other(tmp_path):
    (tmp_path / "r.tsv").write_text("path\ttext\na/1.wav\tone\nb/1.wav\ttwo\n")
    (tmp_path / "h.tsv").write_text("id\ttext\n1\tone\n")
    assert same_utterances(read_texts(tmp_path / "r.tsv"), read_texts(tmp_path / "h.tsv")) == {"1": "one"}


CALL = """\
call A anna 0.0 1.0 one two
call A - 1.0 2.0 IGNORE_TIME_SEGMENT_IN_SCORING
call A bert 2.0 3.0 four
call B cleo 0.5 1.5 yes
"""


@pytest.mark.parametrize("channels", ["AB", "12"])
def test_words_go_to_the_segments_that_they_lie_in_or_are_nearest_to(tmp_path, channels):
    one, two = channels
    heard = [
        (one, 0.1, "one"),
        (one, 0.9, "to"),
        (one, 1.4, "noise"),
        (one, 3.5, "more"),
        (one, 2.1, "four"),
        (two, 0, "yes"),
    ]
    (tmp_path / "h.ctm").write_text("".join(f"call {channel} {at} 0.1 {word}\n" for channel, at, word in heard))
    (tmp_path / "r.stm").write_text(CALL)
    told: list[str] = []
    found = same_utterances(read_texts(tmp_path / "r.stm"), read_texts(tmp_path / "h.ctm"), tell=told.append)
    assert found == {
        "call-00000000-00001000-A": "one to",
        "call-00002000-00003000-A": "four more",
        "call-00000500-00001500-B": "yes",
    }
    assert told == ["1 words lie in segments that are not scored, and are left out"]


def test_words_are_cut_as_a_search_of_all_segments_would():
    generator = random.Random(0)
    edges = sorted(generator.uniform(0, 100) for _ in range(40))
    spans = {str(i): Span("r", "1", *edges[2 * i : 2 * i + 2]) for i in range(20)}
    words = [
        Word(Span("r", "1", at, at), str(i))
        for i, at in enumerate(sorted(generator.uniform(-5, 105) for _ in range(300)))
    ]
    expected: dict[str, list[str]] = {key: [] for key in spans}
    for word in words:
        at = word.at.start_s
        away = {key: max(span.start_s - at, at - span.end_s, 0) for key, span in spans.items()}
        expected[min(away, key=lambda key: away[key])].append(word.text)
    found = same_utterances(Texts(said=[], spans=spans), Texts(said=[], words=words))
    assert found == {key: " ".join(words) for key, words in expected.items()}


def test_recordings_without_words_count_as_heard_empty_and_are_said(tmp_path):
    (tmp_path / "m.tsv").write_text(MANIFEST)
    (tmp_path / "h.ctm").write_text("u1 1 0 1 one\n")
    told: list[str] = []
    found = same_utterances(read_texts(tmp_path / "m.tsv"), read_texts(tmp_path / "h.ctm"), tell=told.append)
    assert found == {"u1": "one", "u2": ""}
    assert told == ["1 utterances have no words in the CTM, and count as empty: u2"]
    (tmp_path / "h.ctm").write_text("x1 1 0 1 one\n")
    assert same_utterances(read_texts(tmp_path / "m.tsv"), read_texts(tmp_path / "h.ctm")) == {"x1": "one"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.stm", "call A anna zero 1 one\n", r"r\.stm:1: expected `recording channel speaker start end"),
        ("h.ctm", "call A 0 1\n", r"h\.ctm:1: expected `recording channel start duration word`"),
        ("h.ctm", "call A * * <ALT_BEGIN>\n", "alternatives are not scored"),
        ("r.stm", "call A x 0 1 one\ncall A x 0 1 two\n", "call-00000000-00001000 occurs twice"),
        ("t.tsv", "a\tone\ttwo\n", r"t\.tsv:1: expected id and text, found 3 cells; name the columns in a first line"),
        ("t.tsv", "id\ttext\na\n", r"t\.tsv:2: expected 2 columns"),
        ("text", "a x\na y\n", "text:2: a occurs twice"),
        ("x.flac", "", r"x\.flac: is audio, which has no text"),
    ],
)
def test_what_does_not_parse_is_named(tmp_path: Path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_texts(tmp_path / name)


def test_words_of_recordings_without_segments_are_refused(tmp_path):
    (tmp_path / "r.stm").write_text(CALL)
    (tmp_path / "h.ctm").write_text("call A 0 1 one\nother 1 0 1 two\n")
    with pytest.raises(
        ManifestError, match="1 words are of recordings or channels that the segments do not name: other"
    ):
        same_utterances(read_texts(tmp_path / "r.stm"), read_texts(tmp_path / "h.ctm"))
