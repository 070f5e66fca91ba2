"""Joined manifests: paths from a common root, ids told apart, nothing listed twice."""

from pathlib import Path

import pytest

from speechssl.corpus.merge import merge
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError


@pytest.fixture
def two(make_utterances) -> list[Manifest]:
    return [Manifest(root=Path("/data") / name, utterances=tuple(make_utterances([10, 20]))) for name in ("ru", "nl")]


def test_ids_that_collide_are_named(two):
    with pytest.raises(ManifestError, match=r"2 occur twice as id: u0000, u0001; tell the ids apart with --prefix"):
        merge(two)


def test_prefixes_tell_ids_apart_and_every_path_still_names_its_file(two):
    joined = merge(two, prefixes=["ru-", "nl-"])
    assert [row.id for row in joined.utterances] == ["ru-u0000", "ru-u0001", "nl-u0000", "nl-u0001"]
    assert joined.root == Path("/data")
    before = [manifest.audio_path(row) for manifest in two for row in manifest.utterances]
    assert [joined.audio_path(row) for row in joined.utterances] == before


def test_a_root_may_be_named_if_it_holds_all_audio(two):
    assert merge(two, prefixes=["a", "b"], root=Path("/")).utterances[2].path == "data/nl/u0000.wav"
    with pytest.raises(ManifestError, match=r"/data/nl/u0000.wav: lies outside of /data/ru; name a folder"):
        merge(two, prefixes=["a", "b"], root=Path("/data/ru"))


def test_the_same_file_twice_is_refused_whatever_its_ids(two):
    with pytest.raises(
        ManifestError, match=r"2 occur twice as file: u0000\.wav, u0001\.wav; merge manifests of differ"
    ):
        merge([two[0], two[0]], prefixes=["a", "b"])


def test_every_manifest_needs_a_prefix_or_none(two):
    with pytest.raises(ManifestError, match="expected a prefix for each of 2 manifests, found 1"):
        merge(two, prefixes=["a"])
