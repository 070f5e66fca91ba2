"""Weights of a language model chosen on a development set: speechssl.stages.tune, `speechssl lm tune`."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from speechssl.__main__ import main
from speechssl.asr.decoding.decoders import Beam, build_decoder
from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.decoding.search import SearchConfig
from speechssl.asr.lm.arpa import write_arpa
from speechssl.asr.lm.kneser_ney import NGramConfig, estimate
from speechssl.asr.scoring.wer import score_texts
from speechssl.config import from_dict
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.stages import tune as stage
from speechssl.stages.tune import cached_posteriors, tune
from speechssl.stages.tuned import TuneConfig


@pytest.fixture
def sets(corpus) -> tuple[Manifest, Manifest]:
    """Two halves of the corpus."""
    manifest = read_manifest(corpus)
    rows = tuple(manifest.utterances)
    return tuple(dataclasses.replace(manifest, utterances=half) for half in (rows[:3], rows[3:5]))  # type: ignore[return-value]


@pytest.fixture
def lm(corpus, tmp_path) -> Path:
    texts = [(row.text or "").split() for row in read_manifest(corpus).utterances]
    write_arpa(tmp_path / "lm.arpa", estimate(texts, NGramConfig(order=2)))
    return tmp_path / "lm.arpa"


def test_the_best_pair_of_dev_is_found_and_test_is_decoded_with_it(finetuned, sets, lm, tmp_path):
    decoder = Beam(lm=lm, search=SearchConfig(beam=8))
    config = TuneConfig(decoder=decoder, lm_weights=(0.0, 2.0), word_scores=(-1.0, 3.0), widen=0, metric="cer")
    told = []
    found = tune(finetuned, sets[0], config, tmp_path / "out", test=sets[1], progress=told.append)
    assert tuple(told) == found.points
    pairs = [(point.lm_weight, point.word_score) for point in found.points]
    assert pairs[:4] == [(0.0, -1.0), (0.0, 3.0), (2.0, -1.0), (2.0, 3.0)]
    assert len(set(pairs)) == len(pairs) == 7  # the neighbours half-way of a corner
    assert found.best.cer == min(point.cer for point in found.points)
    saved = SavedModel.read(finetuned)
    vocabulary = saved.recogniser()[1]
    for manifest, rates, name in ((sets[0], (found.best.wer, found.best.cer), "dev"), (sets[1], found.test, "test")):
        weights = Weights(lm_weight=found.best.lm_weight, word_score=found.best.word_score)
        built = build_decoder(dataclasses.replace(decoder, weights=weights), vocabulary)
        heard = cached_posteriors(saved, manifest, tmp_path / f"{name}.safetensors")
        texts = {key: built.decode(row[None], torch.tensor([len(row)]))[0][0].text for key, row in heard.items()}
        scores = score_texts({row.id: row.text or "" for row in manifest.utterances}, texts)
        assert rates == (scores.wer, scores.cer)
    written = json.loads((tmp_path / "out/tune.json").read_text())
    assert written["best"] == dataclasses.asdict(found.best)
    assert len((tmp_path / "out/surface.tsv").read_text().splitlines()) == 8
    assert (tmp_path / "out/surface.png").read_bytes().startswith(b"\x89PNG")


def test_the_grid_grows_beyond_the_edge_that_the_best_pair_lies_at(monkeypatch, finetuned, sets, lm, tmp_path):
    def rates(heard, texts, vocabulary, decoder, lm=None):  # a valley at (4, -3)
        weights = getattr(decoder, "weights", Weights())
        return 0.0, abs(weights.lm_weight - 4) + abs(weights.word_score + 3)

    monkeypatch.setattr(stage, "_rates", rates)
    config = TuneConfig(decoder=Beam(lm=lm), lm_weights=(1.0, 2.0), word_scores=(0.0, 1.0), rounds=0, metric="cer")
    for widen, best in ((0, (2.0, 0.0)), (2, (4.0, -2.0)), (9, (4.0, -3.0))):
        found = tune(finetuned, sets[0], dataclasses.replace(config, widen=widen), tmp_path / "out")
        assert (found.best.lm_weight, found.best.word_score) == best
    assert len(found.points) == 30, "five weights and six scores: one step beyond the best where it is an edge no more"
    low = dataclasses.replace(config, lm_weights=(0.0, 9.0), word_scores=(-3.0,))
    assert all(point.lm_weight >= 0 for point in tune(finetuned, sets[0], low, tmp_path / "out").points)


def test_the_model_hears_a_set_once(finetuned, sets, tmp_path, monkeypatch):
    saved = SavedModel.read(finetuned)
    first = cached_posteriors(saved, sets[0], tmp_path / "dev.safetensors")
    assert set(first) == {row.id for row in sets[0].utterances}
    other = cached_posteriors(saved, sets[1], tmp_path / "dev.safetensors")
    assert set(other) == {row.id for row in sets[1].utterances}
    monkeypatch.setattr(stage, "log_posteriors", None)
    again = cached_posteriors(saved, sets[1], tmp_path / "dev.safetensors")
    assert all(torch.equal(again[key], other[key]) for key in other)


def test_a_test_set_that_shares_utterances_with_dev_is_refused(finetuned, sets, lm, tmp_path):
    with pytest.raises(ConfigError, match="3 utterances are in dev and in test"):
        tune(finetuned, sets[0], TuneConfig(decoder=Beam(lm=lm)), tmp_path / "out", test=sets[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder": {"kind": "beam"}}, "nothing to tune without a language model"),
        ({"decoder": {"kind": "beam", "lm": "x"}, "lm_weights": ()}, "one or more lm_weights"),
    ],
)
def test_a_search_without_anything_to_try_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(values, TuneConfig, where="lm tune")


def test_the_command_prints_what_it_chose(finetuned, corpus, sets, lm, tmp_path, capsys):
    for name, manifest in zip(("dev", "test"), sets, strict=True):
        write_manifest(tmp_path / f"{name}.tsv", manifest.utterances)
    lexicon = tmp_path / "lexicon.txt"
    assert main(["lm", "lexicon", str(corpus), "-o", str(lexicon), "--model", str(finetuned)]) == 0
    command = ["lm", "tune", str(finetuned), str(tmp_path / "dev.tsv"), "--test", str(tmp_path / "test.tsv")]
    options = ["--lm", str(lm), "--lexicon", str(lexicon), "-o", str(tmp_path / "out"), "--root", str(corpus.parent)]
    numbers = ["--lm-weights", "1", "--word-scores", "0 2", "--widen", "0", "--rounds", "0", "--beam", "8"]
    assert main([*command, *options, *numbers]) == 0
    told = capsys.readouterr()
    assert [line.split("  WER")[0] for line in told.err.splitlines()] == [
        "lm_weight=1 word_score=0",
        "lm_weight=1 word_score=2",
    ]
    assert [line[:5].strip() for line in told.out.splitlines()[1:5]] == ["dev", "dev", "test", "test"]
    assert main([*command, "--lm", str(lm), "-o", str(tmp_path / "out"), "--flashlight"]) == 2
    assert "--flashlight needs a lexicon" in capsys.readouterr().err


def test_a_choice_that_makes_the_other_rate_worse_is_told(monkeypatch, capsys, finetuned, corpus, lm, tmp_path):
    def rates(heard, texts, vocabulary, decoder, lm=None):
        weights = getattr(decoder, "weights", None)
        if weights is None or weights.lm_weight == 0:
            return 0.969, 0.687
        return 0.969 - 0.01 * weights.lm_weight, 0.687 + 0.0345 * weights.lm_weight

    monkeypatch.setattr(stage, "_rates", rates)
    words = ["lm", "tune", str(finetuned), str(corpus), "--lm", str(lm), "-o", str(tmp_path / "out")]
    words += ["--lm-weights", "0 2", "--word-scores", "0", "--widen", "0", "--rounds", "0"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "warning: CER of dev rises from 68.7% without these weights to 75.6%, as the choice was by WER" in said
    assert "By CER it would be lm_weight=0 word_score=0 (CER 68.7%): --metric cer" in said
    assert main([*words, "--metric", "cer"]) == 0
    assert "warning" not in capsys.readouterr().err
