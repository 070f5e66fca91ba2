"""fairseq's files: its conventions hold, and fairseq2's native pipeline decodes from them."""

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.corpus.building import build
from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.data.fairseq_labels import read_km, write_km
from speechssl.data.labels import FrameLabels, LabelSource
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError, SpeechSSLError


def as_fairseq_reads(path: Path) -> tuple[str, list[tuple[str, int]]]:
    """Follow fairseq's loader: strip the root line; strip every other line, split it at tabs, expect two cells."""
    with path.open(encoding="utf-8") as file:
        root = file.readline().strip()
        cells = [line.strip().split("\t") for line in file]
    assert all(len(row) == 2 for row in cells)
    return root, [(name, int(size)) for name, size in cells]


def test_the_table_keeps_to_the_conventions(corpus, tmp_path):
    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    root, rows = as_fairseq_reads(tmp_path / "train.tsv")
    assert Path(root) == corpus.root.resolve()
    assert rows == [(row.path, row.num_samples) for row in corpus.utterances]
    words = (tmp_path / "train.wrd").read_text(encoding="utf-8").splitlines()
    letters = (tmp_path / "train.ltr").read_text(encoding="utf-8").splitlines()
    assert words == [row.text for row in corpus.utterances]
    assert letters[0] == "t o | b e |"
    for word_line, letter_line in zip(words, letters, strict=True):  # fairseq's own way back to words
        assert letter_line.replace(" ", "").replace("|", " ").strip() == word_line


def test_fairseq2_decodes_what_is_listed(corpus, tmp_path):
    pytest.importorskip("fairseq2", reason="its native pipeline is what reads the files")
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import FileMapper, read_sequence

    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    root, rows = as_fairseq_reads(tmp_path / "train.tsv")
    mapper, decoder = FileMapper(Path(root)), AudioDecoder()
    whole = read_sequence([name for name, _ in rows]).map(lambda name: decoder(mapper(name)["data"])).and_return()
    for row, found in zip(corpus.utterances, whole, strict=True):
        assert found["sample_rate"] == row.sample_rate
        np.testing.assert_array_equal(
            found["waveform"].numpy(), read_audio(corpus.audio_path(row), AudioConfig()).numpy()
        )


def test_words_are_taken_from_letters_where_there_are_no_words(corpus, tmp_path):
    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    (tmp_path / "train.wrd").unlink()
    found, _ = import_manifest(tmp_path / "train.tsv", "fairseq")
    assert [row.text for row in found.utterances] == [row.text for row in corpus.utterances]
    (tmp_path / "train.ltr").unlink()
    assert {row.text for row in import_manifest(tmp_path / "train.tsv", "fairseq")[0].utterances} == {None}


def test_texts_that_do_not_fit_are_named(corpus, tmp_path):
    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    letters = (tmp_path / "train.ltr").read_text(encoding="utf-8")
    (tmp_path / "train.ltr").write_text(letters.replace("t o |", "t o o |", 1), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"train\.ltr:1: spells 'too be', the words beside it are 'to be'"):
        import_manifest(tmp_path / "train.tsv", "fairseq")
    (tmp_path / "train.ltr").write_text("a |\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"train\.ltr: holds 1 lines, train\.tsv 4 files"):
        import_manifest(tmp_path / "train.tsv", "fairseq")


def test_texts_are_for_all_utterances_or_none(corpus, tmp_path):
    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    partly = replace(corpus, utterances=(replace(corpus.utterances[0], text=None), *corpus.utterances[1:]))
    notes = export_manifest(partly, tmp_path / "train.tsv", "fairseq")
    assert "1 utterances have no text, and fairseq needs one on every line" in notes[1]
    assert sorted(path.name for path in tmp_path.glob("train.*")) == ["train.tsv"]


def test_labels_beside_the_table_are_mentioned(corpus, tmp_path):
    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    (tmp_path / "train.km").write_text("1\n" * 4, encoding="utf-8")
    assert "`speechssl labels" in import_manifest(tmp_path / "train.tsv", "fairseq")[1][0]


def test_labels_go_through_fairseq_with_the_manifest_and_come_back_with_the_one_imported(corpus, tmp_path):
    source = LabelSource(clusters=7, hop=320, window=400, kmeans="abc", features="mfcc", settings={})
    units = {row.id: np.arange(source.count(row.num_samples_16k)) % 7 for row in corpus.utterances}
    export_manifest(corpus, tmp_path / "train.tsv", "fairseq")
    write_km(tmp_path / "train.km", FrameLabels(source=source, units=units), corpus)
    again, _ = import_manifest(tmp_path / "train.tsv", "fairseq")
    found = read_km(tmp_path / "train.km", again)
    for row, before in zip(again.utterances, corpus.utterances, strict=True):
        np.testing.assert_array_equal(found.units[row.id], units[before.id])


@pytest.fixture(params=["tar", "zip"])
def packed(corpus, tmp_path, request) -> Manifest:
    """Pack the audio of the corpus into an archive, and list that with its texts."""
    archive = tmp_path / "packed/shards" / f"0.{request.param}"
    archive.parent.mkdir(parents=True)
    if request.param == "tar":
        with tarfile.open(archive, "w") as tar:
            tar.add(corpus.root, "speech")
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for row in corpus.utterances:
                zipped.write(corpus.root / row.path, row.path)
    rows = build([str(tmp_path / "packed")]).manifest.utterances
    texts = {row.num_samples: row.text for row in corpus.utterances}
    rows = tuple(replace(row, text=texts[row.num_samples]) for row in rows)
    return Manifest(root=tmp_path / "packed", utterances=rows)


def test_places_in_archives_go_to_fairseq_and_come_back(packed, tmp_path):
    notes = export_manifest(packed, tmp_path / "train.tsv", "fairseq")
    assert notes == ["fairseq's tsv has no place for id: left out"]
    found, _ = import_manifest(tmp_path / "train.tsv", "fairseq")
    assert len(found.utterances) == 4
    for row, before in zip(found.utterances, packed.utterances, strict=True):
        assert replace(row, id=before.id) == before
    assert len({row.id for row in found.utterances}) == 4


def test_fairseq_and_fairseq2_read_our_archives(packed, tmp_path):
    export_manifest(packed, tmp_path / "train.tsv", "fairseq")
    root, rows = as_fairseq_reads(tmp_path / "train.tsv")
    for row, (name, size) in zip(packed.utterances, rows, strict=True):
        archive, offset, length = f"{root}/{name}".split(":")  # as its parse_path does, then a slice of the mapped file
        content = Path(archive).read_bytes()[int(offset) : int(offset) + int(length)]
        assert content[:3] in (b"RIF", b"fLa", b"Ogg")  # what it takes for audio
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        assert (len(samples), rate) == (size, 16_000)
        np.testing.assert_array_equal(samples, read_audio(packed.place(row), AudioConfig()).numpy())


def test_fairseq2s_pipeline_decodes_from_our_archives(packed, tmp_path):
    pytest.importorskip("fairseq2", reason="its native pipeline is what reads the files")
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import FileMapper, read_sequence

    export_manifest(packed, tmp_path / "train.tsv", "fairseq")
    root, rows = as_fairseq_reads(tmp_path / "train.tsv")
    mapper, decoder = FileMapper(Path(root)), AudioDecoder()
    whole = read_sequence([name for name, _ in rows]).map(lambda name: decoder(mapper(name)["data"])).and_return()
    for row, found in zip(packed.utterances, whole, strict=True):
        np.testing.assert_array_equal(found["waveform"].numpy(), read_audio(packed.place(row), AudioConfig()).numpy())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../out.tar:512:100", "leaves the root"),
        ("link.tar:512:100", "leaves the root .*, by a link to"),
        ("in.tar:512:100", "ends after the end of the archive"),
        ("in.tar:0:0", "empty|cannot be decoded"),
        ("in.flac:512:100", r"train\.tsv:2: 'in\.flac:512:100' is a part of a file that is not a tar or zip"),
        ("none.tar:512:100", "is missing"),
    ],
)
def test_places_that_are_not_in_an_archive_below_the_root_are_refused(tmp_path, line, message):
    (tmp_path / "root").mkdir()
    (tmp_path / "out.tar").write_bytes(b"\0" * 1024)
    (tmp_path / "root/in.tar").write_bytes(b"\0" * 600)
    (tmp_path / "root/in.flac").write_bytes(b"\0" * 1024)
    (tmp_path / "root/link.tar").symlink_to(tmp_path / "out.tar")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}/root\n{line}\t1600\n", encoding="utf-8")
    with pytest.raises(SpeechSSLError, match=message):
        import_manifest(tmp_path / "train.tsv", "fairseq")


def test_a_root_with_a_colon_is_refused_where_fairseq_would_split_at_it(packed, tmp_path):
    packed.root.rename(tmp_path / "a:b")
    with pytest.raises(ManifestError, match="rename the file, or the folder"):
        export_manifest(replace(packed, root=tmp_path / "a:b"), tmp_path / "train.tsv", "fairseq")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": " a.wav"}, "strips blanks"),
        ({"path": "a\tb.wav"}, "splits it at tabs"),
        ({"text": "a|b"}, r"has a \|"),
    ],
)
def test_what_fairseq_would_read_as_something_else_is_not_written(corpus, tmp_path, change, message):
    wrong = replace(corpus, utterances=(replace(corpus.utterances[0], **change),))
    with pytest.raises(ManifestError, match=message):
        export_manifest(wrong, tmp_path / "train.tsv", "fairseq")
    assert not (tmp_path / "train.tsv").exists()


def test_the_file_is_named_after_a_split(corpus, tmp_path):
    with pytest.raises(ManifestError, match=r"train: name it SPLIT\.tsv"):
        export_manifest(corpus, tmp_path / "train", "fairseq")
