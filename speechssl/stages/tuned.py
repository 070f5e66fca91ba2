"""Configuration of `tune`, and the decoder with the best weights as `tune` stores it."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from speechssl.asr.decoding.decoders import Beam, Flashlight, WithLexicon
from speechssl.asr.decoding.grammar import Weights
from speechssl.config import configuration, from_dict
from speechssl.errors import ConfigError

__all__ = ["TuneConfig", "read_tuned"]


@configuration
class TuneConfig:
    """Decoder and weights to try."""

    decoder: Beam | WithLexicon | Flashlight  # its own weights are ignored
    lm_weights: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0)
    word_scores: tuple[float, ...] = (-1.0, 0.0, 1.0, 2.0)
    widen: int = 3  # times that the grid may grow by a step beyond the edge at which its best point lies
    rounds: int = 1  # rounds of refinement: half-way to the neighbours of the best point
    metric: Literal["wer", "cer"] = "wer"

    def __post_init__(self) -> None:
        """Check that there is something to try."""
        if self.decoder.lm is None:
            raise ConfigError("decoder.lm: there is nothing to tune without a language model; name an ARPA file")
        if not self.lm_weights or not self.word_scores or min(self.rounds, self.widen) < 0:
            raise ConfigError("expected one or more lm_weights and word_scores, widen and rounds of 0 or more")


def read_tuned(folder: Path) -> Beam | WithLexicon | Flashlight:
    """Return the decoder with the best weights from a folder of `tune`.

    Raises:
        ConfigError: `tune.json` is missing or does not parse.
    """
    path = folder / "tune.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        best = values["best"]
        weights = Weights(lm_weight=best["lm_weight"], word_score=best["word_score"])
        config = from_dict(values["config"], TuneConfig, where=str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); name a folder that `speechssl lm tune` wrote") from error
    return dataclasses.replace(config.decoder, weights=weights)
