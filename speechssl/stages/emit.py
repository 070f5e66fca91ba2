"""Log-probabilities of a fine-tuned model for every utterance, of whatever length: what decoders and aligners read."""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from speechssl.config import configuration
from speechssl.data.audio import SAMPLE_RATE, AudioConfig
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.manifest import Manifest
from speechssl.errors import ConfigError
from speechssl.model.windows import encode_windows
from speechssl.objective.ctc import CTCModel

__all__ = ["EmitConfig", "emissions"]

MAX_PADDING = 0.1  # of a batch: on CPU padding costs what speech does


@configuration
class EmitConfig:
    """How speech goes through the model."""

    batch_s: float = 120.0  # seconds of audio in a batch, padding counted
    window_s: float = 60.0  # longer audio is encoded in windows of this length
    overlap_s: float = 8.0  # that neighbouring windows share at least; each frame comes from the nearer middle

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.window_s:
            raise ConfigError(f"expected 0 <= overlap_s < window_s, found {self.overlap_s} and {self.window_s}")


@torch.no_grad()
def emissions(
    model: CTCModel,
    manifest: Manifest,
    audio: AudioConfig,
    config: EmitConfig,
    *,
    skipped: list[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each utterance's id and its (frames, vocab) log-probabilities, on the host; the longest first.

    Args:
        model: in evaluation mode.
        manifest: the utterances.
        audio: how the model's audio is read; its longest duration does not matter here.
        config: how.
        skipped: gets the reasons why utterances were left out; None raises them instead.

    Raises:
        AudioError: audio cannot be used, and `skipped` is None.
    """
    device = next(model.parameters()).device
    encoder = model.encoder.config
    is_long = {row.id: row.num_samples_16k > config.window_s * SAMPLE_RATE for row in manifest.utterances}
    for long in (True, False):
        rows = tuple(row for row in manifest.utterances if is_long[row.id] == long)
        dataset = SpeechDataset(
            dataclasses.replace(manifest, utterances=rows),
            dataclasses.replace(audio, max_duration_s=math.inf),
            hop=encoder.hop,
            window=encoder.window,
            skip_bad_audio=skipped is not None,
        )
        seconds = 0 if long else config.batch_s  # 0: one at a time
        for batch in load_in_order(dataset, seconds=seconds, max_padding=MAX_PADDING):
            if skipped is not None:
                skipped.extend(batch.skipped)
            if batch.ids and long:
                yield batch.ids[0], _in_windows(model, batch.waveforms[0], config)
            elif batch.ids:
                logits, counts = model.logits(batch.to(device))
                log_probs = logits.float().log_softmax(-1).cpu()
                for key, row, count in zip(batch.ids, log_probs, counts.tolist(), strict=True):
                    yield key, row[:count]


def _in_windows(model: CTCModel, waveform: Tensor, config: EmitConfig) -> Tensor:
    encoder = model.encoder.config
    per_second = SAMPLE_RATE / encoder.hop
    size, overlap = round(config.window_s * per_second), round(config.overlap_s * per_second)
    last = encoder.transformer.num_layers
    pieces = encode_windows(model.encoder, waveform, (last,), size=size, overlap=overlap)
    return torch.cat([model.head(piece[0]).float().log_softmax(-1).cpu() for piece in pieces])
