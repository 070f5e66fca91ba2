"""Text formats are parted where they say: speechssl.text.fields, and every reader that uses it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.lm.arpa import read_arpa
from speechssl.asr.lm.lexicon import read_lexicon
from speechssl.corpus.entries import json_lines
from speechssl.corpus.fetch.librispeech import _read_transcript
from speechssl.corpus.filter import read_ids
from speechssl.corpus.formats.kaldi import _table
from speechssl.data.manifest import read_manifest, read_side_file
from speechssl.hub.fairseq_dictionaries import dictionary_file
from speechssl.stages.score import read_hypotheses
from speechssl.text.fields import escape_id, fields_of, first_field, lines_of, unescape_id
from speechssl.text.phones import read_pronunciations
from speechssl.text.vocabulary import Vocabulary
from speechssl.units.phone_alignments import read_phones

SIGNS = ["\u00a0", "\u3000", "\u202f", "\u2028", "\x85", "\x0b", "\x0c", "\x1c"]
HEADER = "id\tpath\tsamples\trate\tchannels\ttext\n"
ARPA = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\n-1 </s>\n-1\t{}\n\n\\end\\"
READERS = {  # name of the file: what it holds, and what is read of it
    "m.tsv": (HEADER + "{}\tp\t1\t1\t1\t{}", lambda path: [(u.id, u.text) for u in read_manifest(path).utterances]),
    "side.tsv": ("id\ttext\n{}\t{}", lambda path: [(key, row["text"]) for key, row in read_side_file(path).items()]),
    "side.csv": ("id,text\n{},{}", lambda path: [(key, row["text"]) for key, row in read_side_file(path).items()]),
    "t.trn": ("{} ({})", lambda path: [*read_hypotheses(path).items()]),
    "t.jsonl": ('{{"id": "{}", "text": "{}"}}', lambda path: [*read_hypotheses(path).items()]),
    "nemo.json": ('{{"a": "{}", "b": "{}"}}', lambda path: [(row["a"], row["b"]) for _, row in json_lines(path)]),
    "p.ctm": ("{} 1 0.1\t0.2 {} 0.5", lambda path: [(key, row[0].phone) for key, row in read_phones(path).items()]),
    "p.tsv": ("id\tphones\n{}\t0.5:{}", lambda path: [(key, row[0].phone) for key, row in read_phones(path).items()]),
    "text": ("{} {}", lambda path: [(key, value) for key, (_, value) in _table(path).items()]),
    "a.trans.txt": ("{} {}", lambda path: [*_read_transcript(path).items()]),
    "lexicon": ("{}\t{}", lambda path: [(each.word, *each.phones) for each in read_pronunciations(path)[0]]),
    "ids": ("{}\n{}", lambda path: [(key, key) for key in read_ids(path)]),
    "dict.ltr.txt": ("{} 5", lambda path: [(sign, sign) for sign in dictionary_file(path)[4:]]),
    "m.arpa": (ARPA, lambda path: [(word, word) for word in read_arpa(path).ids if word[0] != "<"]),
}  # fmt: skip


@pytest.mark.parametrize("sign", SIGNS, ids=ascii)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_no_reader_cuts_at_other_blanks_or_needs_the_last_newline(tmp_path, name, sign, newline):
    content, read = READERS[name]
    word = f"a{sign}b"
    for end in ("", "\n"):
        (tmp_path / name).write_bytes((content.format(word, word) + end).replace("\n", newline).encode())
        if "json" in name and sign < " ":
            continue  # JSON escapes them
        assert read(tmp_path / name) == [(word, word)]


def test_a_lexicon_for_decoding_keeps_such_signs(tmp_path):
    (tmp_path / "lexicon").write_text("a\u00a0a\u2028\ta a |", encoding="utf-8")
    assert read_lexicon(tmp_path / "lexicon", Vocabulary(("<blank>", "|", "a"))).words == ("a\u00a0a\u2028",)


@given(st.text(max_size=12))
def test_an_escaped_id_is_one_field_and_comes_back(key):
    written = escape_id(key, "()")
    assert unescape_id(written) == key
    assert len(written.split()) == len(key and "x")
    assert not {"(", ")"} & {*written}


@given(st.text("ab \t\u00a0", max_size=12))
def test_fields_are_what_a_walk_over_the_signs_finds(line):
    found = [""]
    for sign in line:
        found = [*found, ""] if sign in " \t" else [*found[:-1], found[-1] + sign]
    fields = [field for field in found if field]
    assert fields_of(line) == fields
    assert first_field(line)[0] == (fields or [""])[0]
    assert fields_of(first_field(line)[1]) == fields[1:]


def test_lines_end_at_line_feeds():
    assert lines_of("a\r\nb\x0b\n\nc") == ["a", "b\x0b", "", "c"]
    assert lines_of("") == []
