"""To another toolkit's format and back: what both hold is the same, what one has no place for is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.corpus.entries import id_of
from speechssl.corpus.formats.exchange import FORMATS, export_manifest, import_manifest
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import AudioError, ManifestError

TARGETS = {  # where each format is written, beside the corpus or in it; what of an utterance it has no place for
    "fairseq": ("out/train.tsv", {"id", "speaker", "language", "split"}),
    "kaldi": ("out", {"split"}),
    "nemo": ("out/train.json", set()),
    "lhotse": ("out", set()),
    "audiofolder": ("speech", set()),
    "dataset": ("out", set()),
    "table": ("out/train.csv", set()),
}
FILES = [form for form in FORMATS if form != "dataset"]  # in which audio stays in its files


def bare(manifest: Manifest, lost: set[str]) -> list[object]:
    """Return the utterances without some columns, the id then as made from the path, sorted by path."""
    rows = [
        replace(row, **{name: id_of(row.path) if name == "id" else None for name in lost})
        for row in manifest.utterances
    ]
    return sorted(rows, key=lambda row: row.path)


def test_every_format_is_tested_here():
    assert set(TARGETS) == set(FORMATS)


@pytest.mark.parametrize("form", FILES)
def test_there_and_back_loses_only_what_the_format_cannot_hold(corpus, tmp_path, form):
    target, lost = TARGETS[form]
    notes = export_manifest(corpus, tmp_path / target, form)
    assert all(any(name in note for note in notes) for name in lost), "what is lost is said"
    again, _ = import_manifest(tmp_path / target, form, root=corpus.root)
    assert bare(again, set()) == bare(corpus, lost)
    if form != "kaldi":  # which sorts
        assert [row.path for row in again.utterances] == [row.path for row in corpus.utterances]
    write_manifest(tmp_path / "again.tsv", again.utterances)
    assert read_manifest(tmp_path / "again.tsv", root=again.root) == again


@pytest.mark.parametrize("form", [form for form in FILES if form != "fairseq"])
def test_rates_channels_and_missing_columns_come_back(tmp_path, write_wav, form):
    write_wav(tmp_path / "speech/x.wav", 4411, rate=44_100, channels=2)
    write_wav(tmp_path / "speech/y.wav", 800, rate=8000)
    (tmp_path / "speech/bare.csv").write_text("path\nx.wav\ny.wav\n", encoding="utf-8")
    corpus, _ = import_manifest(tmp_path / "speech/bare.csv", "table")
    assert [(row.num_samples, row.sample_rate, row.channels) for row in corpus.utterances] == [
        (4411, 44_100, 2),
        (800, 8000, 1),
    ]
    target = tmp_path / TARGETS[form][0]
    assert export_manifest(corpus, target, form) == []
    assert import_manifest(target, form, root=corpus.root)[0] == corpus


def test_fairseq_refuses_other_rates(tmp_path, make_utterances):
    corpus = Manifest(root=tmp_path, utterances=tuple(make_utterances([8000], rate=8000)))
    with pytest.raises(ManifestError, match="audio is 8000 Hz; fairseq's manifest has no column"):
        export_manifest(corpus, tmp_path / "train.tsv", "fairseq")


def test_a_saved_dataset_gives_back_its_files_byte_for_byte(corpus, tmp_path):
    pytest.importorskip("datasets", reason="saved datasets are read and written by it")
    assert export_manifest(corpus, tmp_path / "out", "dataset") == []
    with pytest.raises(ManifestError, match=r"name a folder to write it to with --root"):
        import_manifest(tmp_path / "out", "dataset")
    again, _ = import_manifest(tmp_path / "out", "dataset", root=tmp_path / "files")
    for row, before in zip(again.utterances, corpus.utterances, strict=True):
        assert replace(row, path=before.path) == before
        assert again.audio_path(row).read_bytes() == corpus.audio_path(before).read_bytes()
    assert import_manifest(tmp_path / "out", "dataset", root=tmp_path / "files")[0] == again  # twice is once


@pytest.mark.parametrize("form", ["nemo", "lhotse", "table"])
def test_audio_that_changed_since_the_list_was_made_is_named(corpus, tmp_path, form, write_wav):
    target = tmp_path / TARGETS[form][0]
    export_manifest(corpus, target, form)
    write_wav(corpus.root / "a/one.wav", 5000)
    with pytest.raises(
        ManifestError, match=r"states 0\.1\d* s, a/one\.wav lasts 0\.3125 s; it was changed or truncated"
    ):
        import_manifest(target, form, root=corpus.root)
    write_wav(corpus.root / "a/one.wav", 5000, rate=8000)
    with pytest.raises(ManifestError, match=r"a/one\.wav (lasts 0\.625 s|has 8000)"):
        import_manifest(target, form, root=corpus.root)


@pytest.mark.parametrize("form", FILES)
def test_a_missing_file_and_an_empty_one_are_named(corpus, tmp_path, form):
    target = tmp_path / TARGETS[form][0]
    export_manifest(corpus, target, form)
    (corpus.root / "b/vier.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"b/vier\.wav: the file is empty"):
        import_manifest(target, form, root=corpus.root)
    (corpus.root / "b/vier.wav").unlink()
    with pytest.raises(ManifestError, match=r"b/vier\.wav is missing, or no regular file; .* --root"):
        import_manifest(target, form, root=corpus.root)


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("fairseq", "train.tsv"),
        ("kaldi", "wav.scp"),
        ("nemo", "n.json"),
        ("lhotse", "cuts.jsonl.gz"),
        ("table", "t.csv"),
    ],
)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"\x1f\x8b\x08\x00cut", b"{}\n", b"[1]\n", b'{"a": \n', b"a b c\n"]
)
def test_rubbish_is_refused_by_name(tmp_path, form, file, content):
    (tmp_path / file).write_bytes(content)
    source = tmp_path if form == "kaldi" else tmp_path / file
    with pytest.raises(ManifestError, match=file if content or form != "kaldi" else str(tmp_path)):
        import_manifest(source, form)


def test_two_utterances_of_one_id_are_named(tmp_path, write_wav):
    write_wav(tmp_path / "a.wav", 800)
    (tmp_path / "t.csv").write_text("id,path\nx,a.wav\nx,a.wav\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"t\.csv:3: the id 'x' was given before, at .*t\.csv:2; rename one"):
        import_manifest(tmp_path / "t.csv", "table")


def test_columns_of_other_names_are_mapped_both_ways(corpus, tmp_path):
    columns = {"path": "wav", "text": "sentence", "id": "utterance"}
    out = Path(tmp_path / "t.tsv")
    export_manifest(corpus, out, "table", columns=columns)
    assert out.read_text(encoding="utf-8").startswith("utterance\twav\tsamples\trate\tchannels\tsentence\tspeaker\t")
    assert import_manifest(out, "table", root=corpus.root, columns=columns)[0] == corpus
    with pytest.raises(ManifestError, match=r"no column path, found 'utterance, wav, .* --columns"):
        import_manifest(out, "table", root=corpus.root)
    renamed, notes = import_manifest(out, "table", root=corpus.root, columns={"path": "wav"})
    taken = "path from wav, samples, rate, channels, speaker, language, split"
    assert notes == [f"{out}: taken: {taken}; not taken: utterance, sentence"]
    assert [row.text for row in renamed.utterances] == [None] * 4


def test_columns_that_do_not_exist_are_refused(corpus, tmp_path):
    for columns in ({"file": "wav"}, {"id": "x", "path": "x"}):
        with pytest.raises(ManifestError, match="columns: expected some of id, path, samples"):
            export_manifest(corpus, tmp_path / "t.csv", "table", columns=columns)
