"""An upstream for s3prl: our trunks for its downstream tasks, with the behaviour of its wav2vec 2.0 and HuBERT.

    from speechssl.hub.s3prl import add_to_s3prl
    add_to_s3prl()
    upstream = s3prl.nn.S3PRLUpstream("speechssl", path_or_url="runs/hubert")

`UpstreamExpert` itself does not need s3prl: it has the interface, but not the base class. s3prl 0.4.18, the last
version, uses `torchaudio.set_audio_backend` and `torchaudio.sox_effects` at import, which torchaudio 2.9 no longer has;
install stand-ins for these two first, as tests/hub/test_s3prl.py does. s3prl needs omegaconf, too.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from speechssl.errors import CheckpointError
from speechssl.hub.model_formats import read_saved
from speechssl.model.encoder import Encoded

__all__ = ["UpstreamExpert", "add_to_s3prl"]


class UpstreamExpert(nn.Module):
    """The trunk of a saved model, from waveforms to all layers.

    As in s3prl's upstreams the convolutions are frozen and no layer is dropped in training, so that there are always
    num_layers + 1 hidden states. Dropout, if the model has any, follows `train()` and `eval()`.
    """

    def __init__(self, ckpt: str | Path, model_config: None = None) -> None:
        """Read the model.

        Args:
            ckpt: model folder, run folder or one of its steps.
            model_config: passed by s3prl to every upstream; a model folder needs none.

        Raises:
            CheckpointError: there is no model, or a model_config was given.
        """
        super().__init__()
        if model_config is not None:
            raise CheckpointError(f"{model_config}: a model folder describes itself; give no model_config")
        model = read_saved(Path(ckpt))
        encoder = model.description.encoder
        transformer = dataclasses.replace(encoder.transformer, layer_drop=0.0)
        encoder = dataclasses.replace(encoder, transformer=transformer)
        description = dataclasses.replace(model.description, encoder=encoder)
        self.normalize = bool(description.audio.normalize)
        self.encoder = dataclasses.replace(model, description=description).encoder().with_frozen_conv()

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Return the hop in samples, the same for every `key`."""
        return self.encoder.config.hop

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Encode utterances of any lengths.

        Args:
            wavs: batch x (time,) float at 16 kHz, not normalised. An utterance too short for a frame is padded.

        Returns:
            `hidden_states`: num_layers + 1 x (batch, frames, dim). First the input of layer 1 (projected, with
            positions), then the output of each layer, the last with the final norm of a pre-norm trunk. Padding frames
            repeat the last frame of their utterance: s3prl counts frames as if none were lost at the end, and repeats
            in the same way at the end of a batch.
        """
        if self.normalize:
            wavs = [functional.layer_norm(wav, wav.shape) for wav in wavs]
        window = self.encoder.config.window
        wavs = [functional.pad(wav, (0, max(0, window - len(wav)))) for wav in wavs]
        num_samples = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        first, encoded = self._encode(pad_sequence(list(wavs), batch_first=True), num_samples)
        return {"hidden_states": [_repeat_last(layer, encoded.is_valid) for layer in (first, *encoded.layers)]}

    def _encode(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Encoded]:
        """Return the input of layer 1, (batch, frames, dim), and the encoder's output."""
        inputs: list[Tensor] = []
        layer = self.encoder.transformer.layers[0]
        hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            encoded = self.encoder(waveforms, num_samples)
        finally:
            hook.remove()
        return inputs[0], encoded


def add_to_s3prl(name: str = "speechssl") -> None:
    """Register `UpstreamExpert` with s3prl under a name; only this function imports s3prl.

    Raises:
        CheckpointError: s3prl is not installed, or does not work with the installed torchaudio.
    """
    try:
        hub = importlib.import_module("s3prl.hub")
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"s3prl cannot be imported ({error}); pip install s3prl omegaconf, and with torchaudio 2.9 or later "
            "see the head of speechssl/hub/s3prl.py"
        ) from error
    setattr(hub, name, _upstream)


def _upstream(ckpt: str, model_config: None = None, refresh: bool = False) -> UpstreamExpert:
    """Build the upstream with the signature of s3prl's hub; `refresh` concerns downloads and is ignored."""
    return UpstreamExpert(ckpt, model_config)


def _repeat_last(x: Tensor, is_valid: Tensor) -> Tensor:
    """Replace the padding of (batch, frames, dim) by the last valid frame of each row."""
    positions = torch.arange(x.shape[1], device=x.device)
    source = torch.minimum(positions, is_valid.sum(1, keepdim=True) - 1)  # (batch, frames)
    return x.gather(1, source[..., None].expand_as(x))
