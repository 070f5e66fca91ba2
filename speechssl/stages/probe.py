"""A quick measure of what a model has learnt, without labels: clusters and rank of its features on fixed audio.

How well features cluster and how many dimensions they use predict later error rates better than the loss does (Whetten
et al., 2025). Nothing is drawn from torch's default generator, so a run with probes equals the run without.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError, ManifestError
from speechssl.model.encoder import SpeechEncoder
from speechssl.stages.feature_source import draw_hours
from speechssl.stages.reading_data import DataConfig, read_waveforms
from speechssl.tasks.metrics import perplexity, tally
from speechssl.units.kmeans import KMeans
from speechssl.units.phone_alignments import Interval
from speechssl.units.quality import FeatureSpread, UnitTally

__all__ = ["frame_intervals", "probe", "probe_layer", "prober", "read_probe_audio"]

CLUSTERS = 50  # few enough for minutes of audio, and about as many as there are phones
LONGEST_S = 20.0  # seconds used of an utterance, so that one recording cannot make up the whole set


def read_probe_audio(
    data: DataConfig, manifest: Manifest, *, minutes: float, seed: int, window: int
) -> dict[str, Tensor]:
    """Read the beginnings of utterances drawn at random, the same for the same seed.

    Args:
        data: how audio is read, as for training.
        manifest: the dev set if there is one, else the training set.
        minutes: minutes of audio, at most.
        seed: seed of the draw.
        window: samples in the window of one frame; shorter utterances are skipped.

    Returns:
        (time,) float32 waveforms by utterance id.

    Raises:
        ManifestError: no utterance is that long.
        AudioError: a file cannot be used, and `data` says to stop.
    """
    rows = {row.id: row for row in manifest.utterances if row.num_samples_16k >= window}
    if not rows:
        raise ManifestError(f"no utterance has the {window} samples of one frame, so none can be probed")
    cut = [
        dataclasses.replace(row, num_samples=min(row.num_samples, int(LONGEST_S * row.sample_rate)))
        for row in rows.values()
    ]
    chosen = [rows[row.id] for row in draw_hours(cut, minutes / 60, seed=seed, purpose="probe")]
    left = int(minutes * 60 * SAMPLE_RATE)
    waveforms = {}
    for row, waveform in read_waveforms(data, manifest, chosen, audio=data.audio, window=window, title="probe"):
        waveforms[row.id] = waveform[: max(window, min(int(LONGEST_S * SAMPLE_RATE), left))]
        left -= len(waveforms[row.id])
    return waveforms


def prober(
    data: DataConfig, manifest: Manifest, *, minutes: float, seed: int, window: int
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that probes a model on the same audio at each call; the first call reads it."""
    waveforms: list[Tensor] = []

    def look(model: nn.Module) -> dict[str, float]:
        if not waveforms:
            waveforms.extend(read_probe_audio(data, manifest, minutes=minutes, seed=seed, window=window).values())
        return probe(model, waveforms, seed=seed)

    return look


def probe_layer(encoder: SpeechEncoder) -> int:
    """Return the probed layer, counted from 1: at two thirds of the depth, the source of later iterations' units."""
    return max(1, round(encoder.config.transformer.num_layers * 2 / 3))


@torch.no_grad()
def probe(
    model: nn.Module,
    waveforms: Sequence[Tensor],
    *,
    seed: int,
    clusters: int = CLUSTERS,
    phones: Sequence[Sequence[Interval]] | None = None,
) -> dict[str, float]:
    """Cluster the features of a model and measure the clusters.

    Args:
        model: a module with a `SpeechEncoder` as `encoder`, not sharded; its mode is left as it is.
        waveforms: (time,) float32, each at least one frame long.
        seed: seed of the k-means.
        clusters: number of clusters.
        phones: phones of each waveform, or labels of its frames as returned by `frame_intervals`.

    Returns:
        `probe_rank`, the effective rank of all frames minus their mean (exp of the entropy of the singular values:
        RankMe, Garrido et al. 2023, which keeps the mean); `probe_explained`, the share of the variance between
        clusters; `probe_silhouette`, the mean of (b - a) / b with a and b the distances to the nearest and the second
        nearest centroid; `probe_perplexity` of the clusters; with phones also `probe_pnmi` and `probe_purity`. All are
        0 for features that are not finite; all but the rank are 0 for fewer distinct frames than clusters.
    """
    encoder = model.encoder
    assert isinstance(encoder, SpeechEncoder)
    each = _features(encoder, waveforms)
    frames = torch.cat(each)
    names = ["rank", "explained", "silhouette", "perplexity", *(["pnmi", "purity"] if phones is not None else [])]
    figures = dict.fromkeys([f"probe_{name}" for name in names], 0.0)
    if not bool(torch.isfinite(frames).all()):
        return figures
    spread = FeatureSpread(frames.shape[1])
    spread.add(frames.numpy())
    figures["probe_rank"] = spread.effective_rank()
    try:
        kmeans = KMeans(n_clusters=clusters, max_iter=20, seed=seed).fit(frames)
    except LabelError:  # fewer distinct frames than clusters
        return figures
    nearest = kmeans.transform(frames).topk(2, dim=1, largest=False)
    near, second = nearest.values.double().T
    units = nearest.indices[:, 0]
    variance = float((frames - frames.mean(0)).double().square().sum())
    figures["probe_explained"] = 1 - float(near.square().sum()) / variance
    figures["probe_silhouette"] = float(((second - near) / second.clamp(min=math.ulp(0))).mean())
    figures["probe_perplexity"] = float(perplexity(tally(units, clusters)))
    if phones is not None:
        figures |= _against_phones(encoder, units.split([len(part) for part in each]), phones, clusters)
    return figures


def frame_intervals(labels: np.ndarray, *, hop: int, window: int) -> list[Interval]:
    """Turn the (frames,) int labels of an utterance into intervals around the centres of their frames."""
    centres = (np.arange(len(labels)) * hop + window / 2).tolist()
    return [
        Interval((centre - hop / 2) / SAMPLE_RATE, (centre + hop / 2) / SAMPLE_RATE, str(label))
        for centre, label in zip(centres, labels.tolist(), strict=True)
    ]


def _features(encoder: SpeechEncoder, waveforms: Sequence[Tensor]) -> list[Tensor]:
    """Return (frames, dim) float32 of each waveform, encoded one at a time so that there is no padding."""
    layer, device, was_training = probe_layer(encoder), encoder.mask_vector.device, encoder.training
    encoder.eval()
    features = []
    for waveform in waveforms:
        encoded = encoder(waveform[None].to(device), torch.tensor([len(waveform)]), num_layers=layer)
        features.append(encoded.layers[-1][0].float().cpu())
    encoder.train(was_training)
    return features


def _against_phones(
    encoder: SpeechEncoder, units: Sequence[Tensor], phones: Sequence[Sequence[Interval]], clusters: int
) -> dict[str, float]:
    names = {interval.phone for intervals in phones for interval in intervals}
    counts = UnitTally(names, clusters, hop=encoder.config.hop, window=encoder.config.window)
    for row, intervals in zip(units, phones, strict=True):
        counts.add(row.numpy(), intervals)
    quality = counts.quality()
    return {"probe_pnmi": quality.pnmi, "probe_purity": quality.phone_purity}
