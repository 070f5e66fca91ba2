"""What pages of the documents begin with: small recordings, lists and models, under the names that the pages use."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from tests.docs.small import ROOT, smaller
from tests.hub.models import NINE_LAYERS


def run(*arguments: str) -> None:
    assert main(smaller(list(arguments))) == 0


def speak(path: Path, seconds: float, *, seed: int, pauses: bool = False) -> None:
    """Write tones that change, so that no two recordings are taken for copies; with pauses, five seconds apart."""
    random = np.random.default_rng(seed)
    num_samples = int(seconds * 16_000)
    pitch = np.repeat(random.uniform(100, 3000, num_samples // 1600 + 1), 1600)[:num_samples]
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + random.normal(0, 0.05, num_samples)
    if pauses:
        sound *= np.arange(num_samples) % 80_000 < 68_000
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), sound.astype(np.float32), 16_000)


def write_corpus(folder: Path, splits: dict[str, int], texts: tuple[str, ...], *, audio: str, seed: int) -> None:
    """Write recordings of a second below folder/audio, and a manifest of each split beside it."""
    for split, number in splits.items():
        rows = []
        for i in range(number):
            seed += 1
            speak(folder / audio / f"{split}{i}.wav", 1 + i / 100, seed=seed)
            samples = int((1 + i / 100) * 16_000)
            rows.append(
                Utterance(
                    id=f"{split}{i}",
                    path=f"{audio}/{split}{i}.wav",
                    num_samples=samples,
                    sample_rate=16_000,
                    channels=1,
                    text=f"{texts[i % len(texts)]} {texts[seed % len(texts)]}",
                )
            )
        write_manifest(folder / f"{split}.tsv", rows)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with all that pages begin with."""
    place = tmp_path_factory.mktemp("prepared")
    texts = ("one two", "two", "one", "six two one", "ten", "six", "ten two", "one ten")
    (place / "recipes").symlink_to(ROOT / "recipes")
    write_corpus(place / "labelled", {"train": 8, "dev": 4, "test": 4}, texts, audio="audio", seed=100)
    write_corpus(place, {"pool": 8, "test": 4}, texts, audio="audio", seed=200)
    for name, shape, kind in (
        ("wav2vec2-base", Wav2Vec2Config, Wav2Vec2ForPreTraining),
        ("hubert-base", HubertConfig, HubertModel),
    ):
        kind(shape(**NINE_LAYERS)).save_pretrained(place / name)
        Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(place / name)
    for i in range(4):
        speak(place / f"speech/speaker{i % 2}/{i}.wav", 1 + i / 10, seed=300 + i)
        speak(place / f"talks/{i}.flac", 20 + i, seed=400 + i, pauses=True)
        speak(place / f"digits/{'ab'[i % 2]}/{i}.wav", 1 + i / 10, seed=700 + i)
    (place / "digits/texts.tsv").write_text("0\tone\n1\ttwo\n2\tsix\n3\tten\n")
    for i, name in enumerate(("short.wav", "speech.wav", "other.wav", "interview.mp3", "lecture.flac")):
        speak(place / name, 0.9 + i / 10, seed=500 + i)
    (place / "more-text.txt").write_text("one two six\nten two one\nsix ten\n")
    rows = read_manifest(place / "pool.tsv").utterances
    phones = (f"{row.id}\t0.4:sil 0.8:a 1.0:b\n" for row in rows)
    (place / "phones.tsv").write_text("id\tphones\n" + "".join(phones))
    (place / "recipe.yaml").write_text("out: x\ndata: {manifests: []}\nmax_hours: 1.0\nfit_frames: 100\n")
    kaldi = place / "kaldi/data/train"
    kaldi.mkdir(parents=True)
    shutil.copytree(place / "audio", kaldi / "audio")
    (kaldi / "wav.scp").write_text("".join(f"{row.id} {row.path}\n" for row in rows))
    (kaldi / "text").write_text("".join(f"{row.id} {row.text}\n" for row in rows))
    (kaldi / "utt2spk").write_text("".join(f"{row.id} {row.id}\n" for row in rows))
    before = Path.cwd()
    os.chdir(place)
    try:
        _train(place)
    finally:
        os.chdir(before)
    return place


def _train(place: Path) -> None:
    lists = "data.manifests=[pool.tsv]"
    run("cluster", "recipes/demo/units.yaml", "out=runs/units", lists)
    for name in ("first", "second"):
        seed = f"seed={len(name)}"
        run("pretrain", "recipes/demo/hubert.yaml", f"out=runs/{name}", lists, "labels=[runs/units/labels.tsv]", seed)
    labelled = ("data.manifests=[labelled/train.tsv]", "dev.manifests=[labelled/dev.tsv]")
    run("finetune", "recipes/demo/pretrained.yaml", "out=runs/mine/asr", "checkpoint=runs/first", *labelled)


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder of a page's own, which is the current one."""
    place = tmp_path / "place"
    shutil.copytree(prepared, place, symlinks=True)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    yield place


@pytest.fixture
def fetched() -> Callable[[Path], None]:
    """Give what stands in for `speechssl corpus festvox-ru`: a folder as it leaves it, with less in it."""

    def fetch(folder: Path) -> None:
        texts = tuple(f"{one} {other}" for one in ("odin", "dva", "tri") for other in ("raz", "god", "dom"))
        write_corpus(folder, {"pool": 20, "dev": 4, "test": 4}, texts, audio="audio", seed=600)
        (folder / "corpus.json").write_text(json.dumps({"name": "festvox-ru"}))

    return fetch
