"""Several manifests as one."""

from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Rows
from speechssl.errors import ManifestError
from speechssl.stages.reading_data import DataConfig, read_data


@pytest.fixture
def two(tmp_path, make_corpus) -> tuple[Path, Path]:
    """Give two manifests with different ids."""
    first, second = make_corpus(tmp_path / "first", [8000]), make_corpus(tmp_path / "second", [9000])
    second.write_text(second.read_text().replace("u0000\t", "other\t"))
    return first, second


def test_one_manifest_is_read_as_it_is(two):
    assert read_data(DataConfig(manifests=two[:1])) == read_manifest(two[0])


def test_manifests_are_joined_and_the_audio_of_each_is_found(two):
    manifest = read_data(DataConfig(manifests=two))
    assert [row.id for row in manifest.utterances] == ["u0000", "other"]
    assert [manifest.audio_path(row) for row in manifest.utterances] == [path.parent / "u0000.wav" for path in two]


@pytest.mark.parametrize("in_parquet", [0, 1])
def test_a_joined_manifest_holds_the_same_in_either_form(two, in_parquet):
    pytest.importorskip("pyarrow", reason="the extra `parquet`")
    turned = list(two)
    turned[in_parquet] = two[in_parquet].with_suffix(".parquet")
    write_manifest(turned[in_parquet], read_manifest(two[in_parquet]).utterances)
    manifest = read_data(DataConfig(manifests=tuple(turned)))
    assert isinstance(manifest.utterances, Rows)
    expected = read_data(DataConfig(manifests=two)).utterances
    assert [row.corpus for row in expected] == [str(path) for path in two]
    named = [replace(row, corpus=str(path)) for row, path in zip(expected, turned, strict=True)]
    assert [*manifest.utterances] == named


def test_a_root_moves_all_audio(two, tmp_path):
    manifest = read_data(DataConfig(manifests=two, root=tmp_path / "new"))
    assert {manifest.audio_path(row) for row in manifest.utterances} == {tmp_path / "new/u0000.wav"}


def test_no_manifest_is_refused():
    with pytest.raises(ManifestError, match=r"data\.manifests is empty; name at least one manifest"):
        read_data(DataConfig(manifests=()))


def test_an_id_in_two_manifests_is_refused(two):
    with pytest.raises(
        ManifestError, match=r"manifest\.tsv: the id 'u0000' belongs to .*/u0000\.wav and to .*; rename"
    ):
        read_data(DataConfig(manifests=(two[0], two[0])))
