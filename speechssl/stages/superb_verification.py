"""Speaker verification by the embeddings of heads that were trained on other speakers, on stored features."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.atomic import write_atomically
from speechssl.downstream.pair_scores import cosine_terms, score_pairs
from speechssl.downstream.trial_pairs import pairs_of
from speechssl.downstream.trials import read_trials
from speechssl.downstream.verification import DetectionConfig, Measure, evaluate_trials
from speechssl.parallel import pick_device
from speechssl.stages.head_answers import Split
from speechssl.stages.head_features import SplitFeatures, probed_models, split_features
from speechssl.stages.head_folder import DESCRIPTION, read_head
from speechssl.stages.probe_config import ProbeConfig
from speechssl.stages.reading_data import read_data
from speechssl.tasks.heads import HeadNetwork
from speechssl.tasks.speaker_embedding import SpeakerNetwork

__all__ = ["verified"]

_BATCH = 256  # utterances
_FILE = "verification.json"


def verified(probe: ProbeConfig, trials: Path, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Score trials by the heads of a probe; the manifest has the tested utterances in the split `trials`.

    Args:
        probe: a finished probe of speakers who are in no trial.
        trials: list of trials, by id.
        results: of the probe, one for each model.

    Returns:
        The results with the scores of verification in place of the others: `eer` and `min_dcf`; the intervals are
        those of the first seed.

    Raises:
        ManifestError: there is no target trial, or no other.
    """
    path = probe.out / _FILE
    if path.exists():
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return found
    listed, manifest = read_trials(trials), read_data(probe.data)
    named = {*listed.first, *listed.second}
    rows = tuple(row for row in manifest.utterances if row.split == "trials" and row.id in named)
    told = []
    for number, (model, result) in enumerate(zip(probed_models(probe), results, strict=True)):
        whole = Split(
            name="trials", data=probe.data, manifest=manifest, rows=rows, answers=("",) * len(rows), skipped={}
        )
        features, split = split_features(probe, model, whole, means=True)
        pairs = pairs_of(listed, split.rows, missing="skip")
        speakers = [str(row.speaker) for row in split.rows]
        sides = ([speakers[index] for index in pairs.first], [speakers[index] for index in pairs.second])
        seeds, first = list[dict[str, Any]](), list[Measure]()
        for place, seed in enumerate(probe.seeds):
            (folder,) = probe.out.glob(f"heads/{number}-*/seed-{seed}/{DESCRIPTION}")
            _, network = read_head(folder.parent)
            terms = cosine_terms(_embeddings(network, features))
            config = DetectionConfig(samples=1000 if place == 0 else 0)
            scored = evaluate_trials(
                score_pairs(terms, pairs.first, pairs.second), pairs.is_target, config, speakers=sides
            )
            measured = {measure.name: measure for measure in scored.measures}
            first += [measured["EER"]] if place == 0 else []
            scores = {"eer": measured["EER"].value, "min_dcf": measured["minDCF(0.01)"].value}
            seeds.append(result["seeds"][place] | {"test": scores})
        eer = [seed["test"]["eer"] for seed in seeds]
        summary = {"mean": float(np.mean(eer)), "std": float(np.std(eer, ddof=1)) if len(eer) > 1 else 0.0}
        span = first[0].over_speakers or first[0].over_trials  # with fewer than three speakers there is only the latter
        assert span is not None
        summary |= {"low": span.low, "high": span.high}
        unit = "trials" if first[0].over_speakers is None else "speakers"
        told.append(result | {"test": {"eer": summary}, "seeds": seeds, "left_out": pairs.left_out, "interval": unit})
    write_atomically(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told


@torch.no_grad()
def _embeddings(network: HeadNetwork, features: SplitFeatures) -> NDArray[np.float64]:
    """Return (utterances, dim)."""
    assert isinstance(network, SpeakerNetwork)
    device = pick_device()
    network = network.to(device)
    found = []
    for begin in range(0, len(features.rows), _BATCH):
        batch = features.batch(range(begin, min(begin + _BATCH, len(features.rows))), device)
        found.append(network.embedding(batch.layers, batch.is_valid).cpu().numpy())
    return np.concatenate(found).astype(np.float64)
