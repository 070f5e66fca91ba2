"""VoxCeleb1: recordings, splits and trials agree with torchaudio's; what is not there is counted."""

from collections import Counter

import pytest
from torchaudio.datasets import VoxCeleb1Identification, VoxCeleb1Verification

from speechssl.corpus.layouts.known_layouts import list_layout
from speechssl.corpus.layouts.listing import Trial
from speechssl.errors import CorpusError
from tests.layouts.trees import voxceleb1


@pytest.mark.parametrize("folders", ["wav", "dev/wav test/wav", "vox1_dev_wav/wav vox1_test_wav/wav"])
def test_every_folder_layout_gives_the_same_utterances(tmp_path, write_wav, folders):
    listed = list_layout("voxceleb1", voxceleb1(tmp_path / "vox", write_wav, folders=folders))
    rows = listed.manifest.utterances
    assert Counter(row.split for row in rows) == {"train": 8, "dev": 8, "test": 8}
    assert {row.speaker for row in rows} == {"id10001", "id10002", "id10270", "id10271"}
    assert rows[0].id == "id10001-1zcIwhmde0-0-00001"
    assert rows[0].path == f"{folders.split()[0]}/id10001/1zcIwhmde0-0/00001.wav"
    assert (rows[1].num_samples, rows[1].language) == (4960, None)
    assert {listed.answers[row.id]["verification"] for row in rows if row.speaker < "id1001"} == {"dev"}
    assert {listed.answers[row.id]["verification"] for row in rows if row.speaker > "id1001"} == {"test"}
    assert not listed.notes


def test_lists_are_those_of_torchaudio(tmp_path, write_wav):
    root = voxceleb1(tmp_path, write_wav, folders="wav")
    listed = list_layout("voxceleb1", root)
    for split in ("train", "dev", "test"):
        theirs = VoxCeleb1Identification(root, split)
        expected = {theirs.get_metadata(i)[3]: theirs.get_metadata(i)[2] for i in range(len(theirs))}
        ours = {row.id: int(row.speaker[3:]) for row in listed.manifest.utterances if row.split == split}
        assert ours == expected
    pairs = VoxCeleb1Verification(root)
    expected = [pairs.get_metadata(i)[3:] for i in range(len(pairs))]
    assert [tuple(trial) for trial in listed.trials["veri_test.txt"]] == expected
    assert len(listed.trials["veri_test2.txt"]) == 2


def test_what_is_missing_is_counted(tmp_path, write_wav):
    root = voxceleb1(tmp_path, write_wav)
    (root / "test/wav/id10271/1zcIwhmde0-3/00001.wav").unlink()
    write_wav(root / "dev/wav/id10003/x/00001.wav", 4800)
    listed = list_layout("voxceleb1", root)
    assert listed.notes == [
        "1 left out, in iden_split.txt, without audio: id10271/1zcIwhmde0-3/00001.wav",
        "1 left out, not in iden_split.txt: id10003/x/00001.wav",
        "1 trials of veri_test.txt left out, without audio: id10271/1zcIwhmde0-3/00001.wav",
        "1 trials of veri_test2.txt left out, without audio: id10271/1zcIwhmde0-3/00001.wav",
    ]
    assert len(listed.manifest.utterances) == 23
    same = Trial(True, "id10270-1zcIwhmde0-2-00001", "id10270-1zcIwhmde0-2-00002")
    assert listed.trials["veri_test2.txt"] == [same]


def test_audio_behind_a_link_is_found(tmp_path, write_wav):
    voxceleb1(tmp_path / "disk", write_wav)
    (tmp_path / "vox").mkdir()
    for name in ("dev", "test", "iden_split.txt", "meta"):
        (tmp_path / "vox" / name).symlink_to(tmp_path / "disk" / name)
    listed = list_layout("voxceleb1", tmp_path / "vox")
    assert len(listed.manifest.utterances) == 24
    assert all(listed.manifest.audio_path(row).is_file() for row in listed.manifest.utterances)


def test_trials_alone_list_all_audio_without_a_split(tmp_path, write_wav):
    root = voxceleb1(tmp_path, write_wav)
    (root / "iden_split.txt").unlink()
    listed = list_layout("voxceleb1", root)
    assert {row.split for row in listed.manifest.utterances} == {None}
    assert len(listed.manifest.utterances) == 24


def test_no_list_is_an_error(tmp_path, write_wav):
    root = voxceleb1(tmp_path, write_wav)
    for path in (root / "iden_split.txt", root / "veri_test.txt", root / "meta/veri_test2.txt"):
        path.unlink()
    with pytest.raises(CorpusError, match=r"expected iden_split.txt .* or veri_test.txt .* found neither"):
        list_layout("voxceleb1", root)


def test_voxceleb2_is_named(tmp_path, write_wav):
    (tmp_path / "dev/aac/id00012/x").mkdir(parents=True)
    (tmp_path / "dev/aac/id00012/x/00001.m4a").write_bytes(b"")
    with pytest.raises(CorpusError, match="layout of VoxCeleb2"):
        list_layout("voxceleb1", tmp_path)


def test_other_speakers_under_these_lists_are_an_error(tmp_path, write_wav):
    root = voxceleb1(tmp_path / "vox", write_wav)
    for part in ("dev", "test"):
        (root / part).rename(tmp_path / part)
    write_wav(root / "dev/wav/id00012/x/00001.wav", 4800)
    with pytest.raises(CorpusError, match=r"none of the 1 recordings, .*id00012.* no speakers of VoxCeleb1"):
        list_layout("voxceleb1", root)


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("iden_split.txt", "4 id10001/a/00001.wav", r"iden_split.txt:25: expected `1\|2\|3 "),
        ("iden_split.txt", "2 id10001/1zcIwhmde0-0/00001.wav", r"iden_split.txt:25: .* is in train too"),
        ("veri_test.txt", "1 id10270/1zcIwhmde0-2/00001.wav", r"veri_test.txt:4: expected `0\|1 "),
    ],
)
def test_a_broken_line_is_named(tmp_path, write_wav, name, line, expected):
    root = voxceleb1(tmp_path, write_wav)
    with (root / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorpusError, match=expected):
        list_layout("voxceleb1", root)
