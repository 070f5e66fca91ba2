"""fairseq's label files, in and out, and the command that converts them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from speechssl.__main__ import main
from speechssl.data.fairseq_labels import read_km, with_ids_of, write_km
from speechssl.data.labels import FrameLabels, LabelSource, join_labels, read_labels, write_labels
from speechssl.data.manifest import read_fairseq_manifest, write_fairseq_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import LabelError, ManifestError

LENGTHS = {"b": 720, "a": 1040, "c": 400}  # 3, 5 and 1 labels at 100 Hz; 2, 3 and 1 at 50
MFCC = LabelSource(clusters=12, hop=160, window=400, features="mfcc", kmeans="abc")
UNITS = {"a": [3, 11, 0, 7, 7], "b": [0, 10, 2], "c": [5], "more": [1, 1]}
LABELS = FrameLabels(source=MFCC, units={key: np.array(row, dtype=np.int16) for key, row in UNITS.items()})
KM = "0 10 2\n3 11 0 7 7\n5\n"
DICTIONARY = "".join(f"{unit} 1\n" for unit in range(12))


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Give three utterances whose ids do not follow from their paths, in no order."""
    utterances = tuple(
        Utterance(id=key, path=f"wav/{key}-file.flac", num_samples=n, sample_rate=16_000, channels=1)
        for key, n in LENGTHS.items()
    )
    return Manifest(root=tmp_path, utterances=utterances)


@pytest.fixture
def km(tmp_path) -> Path:
    """Give a label file of fairseq with its list of units."""
    (tmp_path / "dict.km.txt").write_text(DICTIONARY)
    (tmp_path / "train.km").write_text(KM)
    return tmp_path / "train.km"


def test_labels_are_written_in_the_order_of_the_manifest_with_a_list_of_all_units(manifest, tmp_path):
    write_km(tmp_path / "out/train.km", LABELS, manifest)
    assert (tmp_path / "out/train.km").read_text() == KM
    assert (tmp_path / "out/dict.km.txt").read_text() == DICTIONARY
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dict.km.txt", "train.km"]


def test_the_list_of_units_is_named_after_the_suffix_as_fairseq_looks_for_it(manifest, tmp_path):
    write_km(tmp_path / "valid.km0", LABELS, manifest)
    assert (tmp_path / "dict.km0.txt").read_text() == DICTIONARY
    with pytest.raises(LabelError, match=r"train: name it after its manifest, split\.km for split\.tsv"):
        write_km(tmp_path / "train", LABELS, manifest)


def test_labels_are_read_by_the_ids_of_the_manifest(manifest, km):
    found = read_km(km, manifest)
    assert {key: row.tolist() for key, row in found.units.items()} == {key: UNITS[key] for key in "bac"}
    assert {row.dtype for row in found.units.values()} == {np.dtype(np.int16)}
    assert (found.source.clusters, found.source.hop, found.source.window) == (12, 160, 400)
    assert found.source.features == "imported"
    found.check(manifest, where="x")


def test_the_rate_is_found_from_the_lengths_or_taken_as_given(manifest, km):
    km.write_text("0 1\n2 3 4\n5\n")
    assert read_km(km, manifest).source.hop == read_km(km, manifest, rate=50).source.hop == 320
    with pytest.raises(
        LabelError,
        match=r"train\.km: 2 of 3 lines differ .* at 100 a second, from windows of 400 .*line 1 has 2, b makes 3",
    ):
        read_km(km, manifest, rate=100)


def test_a_rate_and_a_window_of_one_s_own_are_taken(manifest, km):
    km.write_text("1 1\n1 1\n1\n")
    source = read_km(km, manifest, rate=40, window=320).source
    assert (source.hop, source.window) == (400, 320)
    with pytest.raises(LabelError, match="rate=30: expected whole labels a second"):
        read_km(km, manifest, rate=30)


def test_what_is_written_and_read_again_is_the_same(manifest, tmp_path):
    write_km(tmp_path / "train.km", LABELS, manifest)
    found = read_km(tmp_path / "train.km", manifest)
    assert {key: row.tolist() for key, row in found.units.items()} == {key: UNITS[key] for key in "bac"}
    write_km(tmp_path / "again/train.km", found, manifest)
    assert (tmp_path / "again/train.km").read_bytes() == (tmp_path / "train.km").read_bytes()


def test_files_of_one_k_means_may_be_mixed_and_others_not(manifest, km, tmp_path):
    (tmp_path / "km.bin").write_bytes(b"centroids")
    halves = [
        dataclasses.replace(manifest, utterances=rows) for rows in (manifest.utterances[:1], manifest.utterances[1:])
    ]
    lines = KM.splitlines(keepends=True)
    for name, part in (("one.km", lines[:1]), ("two.km", lines[1:])):
        (tmp_path / name).write_text("".join(part))
    paths = tmp_path / "one.km", tmp_path / "two.km"
    alone = [(path, read_km(path, half)) for path, half in zip(paths, halves, strict=True)]
    with pytest.raises(LabelError, match=r"two\.km comes from k-means imported-\w{16} of imported"):
        join_labels(alone)
    together = join_labels(
        (path, read_km(path, half, kmeans=tmp_path / "km.bin")) for path, half in zip(paths, halves, strict=True)
    )
    assert {*together.units} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KM + "1\n", r"train\.km: holds 4 lines, the manifest lists 3 utterances; name the manifest whose lines"),
        (KM[:-2], r"train\.km: holds 2 lines, the manifest lists 3 utterances"),
        (KM[:-1], r"train\.km:3: ends within a line; the file was truncated"),
        ("", r"train\.km: holds 0 lines, the manifest lists 3"),
        (
            "0 10 2\n3 11 0 7\n5\n",
            r"1 of 3 lines differ .* at 100 a second, .*: line 2 has 4, a makes 5; name the manifest",
        ),
        ("3 11 0 7 7\n0 10 2\n5\n", r"train\.km: \d of 3 lines differ in number of labels from their"),
        ("0 10 2\n3 11 0 7 7\n\n", r"1 of 3 lines .* line 3 has 0, c makes 1"),
        (KM.replace("11", "12"), r"train\.km:2: has units up to 12, expected 0 to 11"),
        (KM.replace("11", "x"), r"train\.km:2: expected units in decimal with blanks between, found b'3 x 0 7 7"),
        (KM.replace("11", "-1"), r"train\.km:2: expected units in decimal"),
        (None, r"train\.km: cannot be read \(No such file or directory\)"),
    ],
)
def test_labels_that_do_not_belong_to_the_manifest_are_refused(manifest, km, text, message):
    km.unlink() if text is None else km.write_text(text)
    with pytest.raises(LabelError, match=message):
        read_km(km, manifest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"dict\.km\.txt: is empty, so that fairseq takes every label for <unk>"),
        ("0 1\n2 1\n", r"dict\.km\.txt: expected 2 lines `unit count`, each unit from 0 to 1 once"),
        ("0 1\n0 1\n", r"expected 2 lines `unit count`"),
        ("0\n1\n", r"expected 2 lines `unit count`"),
        ("0 1\n1 1\nmadeupword0000 0\n", r"expected 3 lines `unit count`"),
        (None, r"nothing says how many units there are; put dict\.km\.txt beside it, or name clusters"),
    ],
)
def test_a_list_of_units_that_is_none_is_refused(manifest, km, text, message):
    path = km.with_name("dict.km.txt")
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(LabelError, match=message):
        read_km(km, manifest)


def test_a_list_sorted_by_how_often_units_occur_says_as_well_how_many_there_are(manifest, km):
    km.with_name("dict.km.txt").write_text("".join(f"{unit} {unit}\n" for unit in reversed(range(12))))
    assert read_km(km, manifest).source.clusters == 12


def test_the_number_of_units_may_be_given_and_must_fit_the_list(manifest, km):
    with pytest.raises(LabelError, match=r"dict\.km\.txt: lists 12 units, clusters=100 was asked for"):
        read_km(km, manifest, clusters=100)
    km.with_name("dict.km.txt").unlink()
    assert read_km(km, manifest, clusters=100).source.clusters == 100


def heard_in_pieces(num_samples: int, piece: int, *, hop: int = 320, window: int = 400) -> list[int]:
    """Number the frames that pieces of the audio make by the sample they begin at, frame by frame."""
    starts = []
    for first in range(0, num_samples, piece):
        last = min(first + piece, num_samples)
        begin = first
        while begin + window <= last:
            starts.append(begin)
            begin += hop
    return starts


def one_file(folder: Path, num_samples: int, num_labels: int) -> tuple[Path, Manifest]:
    """Give a label file whose units are 0, 1, 2, ..., and the manifest of its one utterance."""
    row = Utterance(id="a", path="a.wav", num_samples=num_samples, sample_rate=16_000, channels=1)
    (folder / "long.km").write_text(" ".join(map(str, range(num_labels))) + "\n")
    (folder / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(num_labels)))
    return folder / "long.km", Manifest(root=folder, utterances=(row,))


@pytest.mark.parametrize(
    ("num_samples", "repeated"),
    [(1_600_000, 0), (1_600_100, 1), (1_600_400, 1), (1_760_000, 1), (3_200_000, 1), (3_360_001, 2), (8_000_123, 5)],
)
def test_a_label_is_repeated_at_each_seam_of_audio_heard_in_pieces(tmp_path, num_samples, repeated):
    starts = heard_in_pieces(num_samples, 1_600_000)
    km, manifest = one_file(tmp_path, num_samples, len(starts))
    found = read_km(km, manifest)
    units = found.units["a"].tolist()
    assert len(units) == found.source.count(num_samples) == len(starts) + repeated
    for frame, unit in enumerate(units):  # at its own time, but for the last frame before a seam
        assert starts[unit] == (320 * (frame - 1) if frame % 5000 == 4999 else 320 * frame)
    said = {key: found.source.settings.get(key) for key in ("piece", "in_pieces", "repeated")}
    counted = {"piece": 1_600_000, "in_pieces": 1, "repeated": repeated}
    assert said == (counted if repeated else dict.fromkeys(said))
    found.check(manifest, where="x")


@pytest.mark.parametrize(
    ("num_samples", "piece", "rate", "window"),
    [(64_000, 16_000, 50, 400), (5_301, 500, 50, 400), (4_000, 1_000, 100, 400), (7_777, 1_234, 25, 640)],
)
def test_labels_of_pieces_of_any_length_go_to_the_nearest_frames(tmp_path, num_samples, piece, rate, window):
    hop = 16_000 // rate
    starts = heard_in_pieces(num_samples, piece, hop=hop, window=window)
    km, manifest = one_file(tmp_path, num_samples, len(starts))
    found = read_km(km, manifest, piece=piece, rate=rate, window=window).units["a"].tolist()
    wanted = [frame * hop for frame in range((num_samples - window) // hop + 1)]
    assert found == [min(range(len(starts)), key=lambda label: abs(starts[label] - begin)) for begin in wanted]


@pytest.mark.parametrize("wrong", [-2, -1, 2])
def test_other_numbers_of_labels_than_pieces_make_are_refused(tmp_path, wrong):
    km, manifest = one_file(tmp_path, 1_760_000, len(heard_in_pieces(1_760_000, 1_600_000)) + wrong)
    with pytest.raises(
        LabelError, match=r"1 of 1 lines .* or the pieces in which long audio was encoded .*--max_chunk"
    ):
        read_km(km, manifest)


def test_a_piece_shorter_than_a_label_is_refused(manifest, km):
    with pytest.raises(LabelError, match=r"piece=399: expected samples, at least the 400 that one label looks at"):
        read_km(km, manifest, piece=399)


def test_labels_are_not_written_beside_a_list_of_other_units(manifest, km):
    labels = dataclasses.replace(LABELS, source=dataclasses.replace(MFCC, clusters=13))
    with pytest.raises(LabelError, match=r"dict\.km\.txt: lists 12 units, the labels have 13; write them to another"):
        write_km(km, labels, manifest)
    assert km.read_text() == KM


def test_labels_that_lack_utterances_or_have_other_lengths_are_not_written(manifest, tmp_path):
    short = FrameLabels(source=MFCC, units={**LABELS.units, "a": np.array([1, 2])})
    with pytest.raises(LabelError, match=r"out\.km: a has 2 labels, its audio of 1040 samples makes 5"):
        write_km(tmp_path / "out.km", short, manifest)
    with pytest.raises(LabelError, match=r"out\.km: 2 utterances .* have no labels: b, c; .* name ours with --ids"):
        write_km(tmp_path / "out.km", FrameLabels(source=MFCC, units={"a": LABELS.units["a"]}), manifest)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("moved", [False, True])
def test_fairseq_s_lines_get_our_ids_by_path(manifest, tmp_path, moved):
    turned = dataclasses.replace(manifest, utterances=manifest.utterances[::-1])
    write_fairseq_manifest(tmp_path / "train.tsv", turned)
    ours = dataclasses.replace(manifest, root=Path("/elsewhere")) if moved else manifest
    found = with_ids_of(read_fairseq_manifest(tmp_path / "train.tsv"), ours)
    assert [row.id for row in found.utterances] == ["c", "a", "b"]


def test_fairseq_s_lines_get_the_ids_of_a_manifest_with_another_root(manifest, tmp_path):
    write_fairseq_manifest(tmp_path / "train.tsv", manifest)
    rows = tuple(dataclasses.replace(row, path=row.path.removeprefix("wav/")) for row in manifest.utterances)
    found = with_ids_of(read_fairseq_manifest(tmp_path / "train.tsv"), Manifest(root=tmp_path / "wav", utterances=rows))
    assert [row.id for row in found.utterances] == ["b", "a", "c"]


def test_ids_are_not_taken_from_a_manifest_of_other_audio(manifest):
    fewer = dataclasses.replace(manifest, utterances=manifest.utterances[1:])
    with pytest.raises(ManifestError, match=r"1 paths are not in the manifest that gives the ids: wav/b-file\.flac"):
        with_ids_of(manifest, fewer)
    longer = tuple(dataclasses.replace(row, num_samples=row.num_samples + 1) for row in manifest.utterances)
    with pytest.raises(ManifestError, match=r"wav/b-file\.flac: has 720 samples at 16000 Hz, and 721 in the manifest"):
        with_ids_of(manifest, dataclasses.replace(manifest, utterances=longer))


@pytest.fixture
def files(manifest, tmp_path) -> dict[str, str]:
    """Give the paths of our labels, of a manifest of ours and of fairseq's, whose lines are in another order."""
    write_labels(tmp_path / "labels.tsv", LABELS)
    write_manifest(tmp_path / "ours.tsv", manifest.utterances)
    turned = dataclasses.replace(manifest, utterances=manifest.utterances[::-1])
    write_fairseq_manifest(tmp_path / "train.tsv", turned)
    return {name: str(tmp_path / name) for name in ("labels.tsv", "ours.tsv", "train.tsv", "train.km", "back.tsv")}


def test_the_command_converts_to_fairseq_and_back(files, capsys):
    order = ["--manifest", files["train.tsv"], "--ids", files["ours.tsv"]]
    assert main(["labels", files["labels.tsv"], files["train.km"], *order]) == 0
    assert Path(files["train.km"]).read_text() == "5\n3 11 0 7 7\n0 10 2\n"
    printed = capsys.readouterr().out
    assert "train.km: 3 utterances, 12 units, k-means abc" in printed
    assert "model.label_rate=100" in printed
    assert main(["labels", files["train.km"], files["back.tsv"], *order]) == 0
    found = read_labels(Path(files["back.tsv"]))
    assert {key: row.tolist() for key, row in found.units.items()} == {key: UNITS[key] for key in "cab"}


def test_the_command_takes_the_order_of_our_manifest(files):
    assert main(["labels", files["labels.tsv"], files["train.km"], "--manifest", files["ours.tsv"]]) == 0
    assert Path(files["train.km"]).read_text() == KM


def test_the_command_says_how_fairseq_s_manifest_gets_ids(files, capsys):
    assert main(["labels", files["labels.tsv"], files["train.km"], "--manifest", files["train.tsv"]]) == 2
    assert "have no labels: wav-c-file, wav-a-file, wav-b-file; fairseq's manifests" in capsys.readouterr().err


def test_the_command_says_how_many_labels_were_repeated_at_seams(tmp_path, capsys):
    km, manifest = one_file(tmp_path, 3_360_000, len(heard_in_pieces(3_360_000, 1_600_000)))
    write_manifest(tmp_path / "ours.tsv", manifest.utterances)
    command = ["labels", str(km), str(tmp_path / "labels.tsv"), "--manifest", str(tmp_path / "ours.tsv")]
    assert main(command) == 0
    assert "1 files of audio in pieces of 100 s: 2 labels repeated at seams" in capsys.readouterr().err
    assert len(read_labels(tmp_path / "labels.tsv").units["a"]) == (3_360_000 - 400) // 320 + 1
    assert main([*command, "--max-chunk", "800000"]) == 2
    assert "in pieces of 800000 samples at 50 a second" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--rate=50", "--clusters=12", "--window=320", "--kmeans=km.bin", "--max-chunk=1600000"]
)
def test_the_command_takes_no_options_for_what_our_file_says(files, option, capsys):
    assert main(["labels", files["labels.tsv"], files["train.km"], "--manifest", files["ours.tsv"], option]) == 2
    assert "leave the options out" in capsys.readouterr().err
    assert not Path(files["train.km"]).exists()
