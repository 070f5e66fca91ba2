"""From packages to manifests: speechssl.corpus.fetch.preparing."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.corpus.fetch import CORPORA, decode, describe_corpora, prepare_corpus
from speechssl.corpus.fetch.splits import SplitRule, write_lists
from speechssl.data.manifest import read_manifest
from speechssl.errors import CorpusError

TEXTS = {f"ru_{i:04}": f"слово {'а' * (i + 1)}, вол+ос" for i in range(12)}
SHORT = SplitRule(minutes=(("test", 0.01), ("dev", 0.005), ("train", 0.01)))  # 3, 2 and 3 of 0.25 s
FESTVOX_RU = dataclasses.replace(CORPORA["festvox-ru"], rule=SHORT)


def account(out: Path) -> dict:
    return json.loads((out / "corpus.json").read_text(encoding="utf-8"))


def test_a_prepared_corpus_has_audio_manifests_phones_and_an_account(
    festvox_tree: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifests = prepare_corpus(FESTVOX_RU, out, source=festvox_tree(TEXTS))
    assert {split: len(read_manifest(path).utterances) for split, path in manifests.items()} == {
        "test": 3,
        "dev": 2,
        "train": 3,
        "pool": 7,
    }
    train = read_manifest(manifests["train"])
    first = train.utterances[0]
    assert (first.language, first.speaker, first.split, first.num_samples) == ("ru", "msu_ru_nsh", "train", 4000)
    assert "волос" in (first.text or "")
    assert train.audio_path(first).is_file()
    phones = (out / "phones.tsv").read_text().splitlines()
    assert phones[:2] == ["id\tphones", "ru_0000\t0.05:pau 0.2:aa 0.25:pau"]
    assert account(out)["packages"] == {"festvox-ru": "0.5+dfsg-6"}
    assert account(out)["splits"]["pool"] == {"utterances": 7, "minutes": 0.03}
    assert not (out / ".packages").exists()


def test_following_lists_made_by_the_rule_gives_the_same_manifests(
    festvox_tree: Callable[..., Path], tmp_path: Path
) -> None:
    tree = festvox_tree(TEXTS)
    ruled = prepare_corpus(FESTVOX_RU, tmp_path / "ruled", source=tree)
    write_lists(ruled, tmp_path / "lists")
    listed = prepare_corpus(FESTVOX_RU, tmp_path / "listed", source=tree, splits=tmp_path / "lists")
    assert {name: path.read_text() for name, path in ruled.items()} == {
        name: listed[name].read_text() for name in ruled
    }


def test_a_second_run_does_nothing_and_other_lists_only_split_anew(
    festvox_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, out = festvox_tree(TEXTS), tmp_path / "out"
    first = prepare_corpus(FESTVOX_RU, out, source=tree)
    write_lists({"train": first["train"]}, tmp_path / "lists")
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert prepare_corpus(FESTVOX_RU, out, source=tree) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps
    monkeypatch.setattr(decode, "_decode_batch", lambda *_: pytest.fail("decoded again"))
    assert list(prepare_corpus(FESTVOX_RU, out, source=tree, splits=tmp_path / "lists")) == ["train"]
    assert not (out / "pool.tsv").exists()
    assert account(out)["in_no_split"]["not listed"]["count"] == 9


def test_an_interrupted_run_is_completed(
    festvox_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, out = festvox_tree(TEXTS), tmp_path / "out"
    real, calls = decode._link_or_copy, []

    def stop_at_the_fifth(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 5:
            target.write_bytes(b"half a fi")
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "_link_or_copy", stop_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(FESTVOX_RU, out, source=tree)
    assert not (out / "corpus.json").exists()
    completed = prepare_corpus(FESTVOX_RU, out, source=tree)
    direct = prepare_corpus(FESTVOX_RU, tmp_path / "direct", source=tree)
    assert {name: path.read_text() for name, path in completed.items()} == {
        name: direct[name].read_text() for name in completed
    }
    assert not list(out.rglob("*.partial"))


def test_a_list_of_another_version_stops_the_preparation(festvox_tree: Callable[..., Path], tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    write_lists(prepare_corpus(FESTVOX_RU, tmp_path / "one", source=festvox_tree(TEXTS)), lists)
    shutil.rmtree(tmp_path / "festvox")
    fewer = festvox_tree({name: TEXTS[name] for name in list(TEXTS)[:3]})
    with pytest.raises(CorpusError, match=r"not in the prepared corpus: .*missing"):
        prepare_corpus(FESTVOX_RU, tmp_path / "two", source=fewer, splits=lists)
    assert not (tmp_path / "two/corpus.json").exists()


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("librispeech", None, "name its folder with --source: LibriSpeech/"),
        ("festvox-ru", Path("nowhere"), "nowhere: no such folder; --source names the folder that holds the .deb"),
    ],
)
def test_a_wrong_request_says_what_was_expected(name: str, source: Path | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        prepare_corpus(CORPORA[name], tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_two_corpora_do_not_fit_into_one_folder(festvox_tree: Callable[..., Path], tmp_path: Path) -> None:
    prepare_corpus(FESTVOX_RU, tmp_path / "out", source=festvox_tree(TEXTS))
    with pytest.raises(CorpusError, match="holds the corpus festvox-ru; prepare pocketsphinx into a folder of its own"):
        prepare_corpus(CORPORA["pocketsphinx"], tmp_path / "out", source=tmp_path)


def test_a_recording_named_in_the_prompts_has_to_be_there(festvox_tree: Callable[..., Path], tmp_path: Path) -> None:
    tree = festvox_tree(TEXTS)
    next(tree.rglob("ru_0003.wav")).unlink()
    with pytest.raises(CorpusError, match=r"ru_0003.wav: not found, but .*txt.done.data:4 names it"):
        prepare_corpus(FESTVOX_RU, tmp_path / "out", source=tree)


def test_every_corpus_is_described_with_its_licence() -> None:
    lines = describe_corpora(CORPORA)
    assert len(lines) == len(CORPORA) == 5
    assert all(corpus.licence in line for corpus, line in zip(CORPORA.values(), lines, strict=True))
