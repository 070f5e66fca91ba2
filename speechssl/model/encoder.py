"""The speech encoder (trunk) that all methods share: waveform -> convolutions -> projection -> Transformer.

Figure 1 of wav2vec 2.0 (arXiv:2006.11477) and of HuBERT (arXiv:2106.07447). The caller says which frames to mask; the
encoder neither draws masks nor computes losses.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from speechssl.config import added, configuration
from speechssl.errors import ConfigError
from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.conv import ConvFeatureExtractor
from speechssl.model.dropout import Dropout
from speechssl.model.frames import BASE_STACK, Stack, frame_count, hop_size, receptive_field, within
from speechssl.model.host import send
from speechssl.model.linear import Linear
from speechssl.model.local_frames import local_extractor
from speechssl.model.log_mel import HOP, WINDOW, check_bins
from speechssl.model.norm import LayerNorm
from speechssl.model.transformer import Layer, Transformer, TransformerConfig, without_learning

__all__ = ["Encoded", "EncoderConfig", "Place", "SpeechEncoder"]

ADAPTERS = ("up", "down")  # last component of the names of the trainable parameters of `lora.AdaptedLinear`


@configuration
class EncoderConfig:
    """Architecture of the encoder; the defaults are BASE.

    Log-mel input, as in Fast-HuBERT (arXiv:2309.13860), needs two convolutions: a thirtieth of the work of BASE's.
    """

    input: Literal["waveform", "log_mel"] = added("waveform")  # of the convolutions; log-mel: 25 ms every 10 ms
    log_mel_bins: int = added(80)  # filters of log-mel input
    conv: tuple[tuple[int, int, int], ...] = BASE_STACK  # (channels, kernel, stride)
    conv_norm: Literal["group", "layer"] = "group"  # fairseq: extractor_mode default or layer_norm
    conv_bias: bool = False
    padding_in_norm: bool = False  # include the padding in the group norm's statistics, as the reference code does
    conv_grad_scale: float = 0.1  # gradient multiplier of the extractor (fairseq: feature_grad_mult); 0 freezes it
    feature_dropout: float = 0.1  # dropout of the projected features (fairseq: dropout_input)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        if not self.conv or any(min(layer) < 1 for layer in self.conv):
            raise ConfigError(f"encoder.conv must list (channels, kernel, stride) from 1 up, found {self.conv}")
        check_bins("encoder.log_mel_bins", self.log_mel_bins)
        if self.input == "log_mel" and self.frames_per_second < 1:
            raise ConfigError(
                f"encoder.conv makes a frame every {self.hop / 16_000:g} s from log-mel frames, which are 10 ms apart; "
                "for one every 20 ms set encoder.conv=[[512,3,2],[512,3,1]]"
            )

    @property
    def stack(self) -> Stack:
        """Layers from samples to frames: `conv`, after the windows of the log-mel energies if these are the input."""
        return self.conv if self.input == "waveform" else ((self.log_mel_bins, WINDOW, HOP), *self.conv)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return hop_size(self.stack)

    @property
    def window(self) -> int:
        """Receptive field of one frame of the extractor, in samples; a shorter waveform has no frame."""
        return receptive_field(self.stack)

    @property
    def frames_per_second(self) -> float:
        """Frame rate at 16 kHz."""
        return 16_000 / self.hop

    @classmethod
    def base(cls) -> Self:
        """95 M parameters: 12 layers of 768, group norm, post-norm."""
        return cls()

    @classmethod
    def large(cls) -> Self:
        """317 M parameters: 24 layers of 1024, layer norm, pre-norm, no dropout (LARGE of the paper on Libri-Light)."""
        return cls(
            conv_norm="layer",
            conv_bias=True,
            conv_grad_scale=1.0,
            feature_dropout=0.0,
            transformer=TransformerConfig(
                dim=1024,
                num_layers=24,
                num_heads=16,
                ffn_dim=4096,
                norm="pre",
                dropout=0.0,
                attention_dropout=0.0,
                layer_drop=0.0,
            ),
        )

    @classmethod
    def small(cls) -> Self:
        """2.5 M parameters for CPUs: 25 frames a second, channels that widen as time shrinks, no dropout."""
        return cls(
            conv=((32, 20, 10), (64, 4, 2), (128, 4, 2), (192, 4, 2), (256, 4, 2), (256, 4, 4)),
            conv_grad_scale=1.0,
            feature_dropout=0.0,
            transformer=TransformerConfig(
                dim=192,
                num_layers=4,
                num_heads=4,
                ffn_dim=768,
                position_kernel=32,
                position_groups=16,
                dropout=0.0,
                attention_dropout=0.0,
                layer_drop=0.0,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Output of the encoder for one batch."""

    conv: Tensor  # (batch, frames, conv channels), output of the extractor
    features: Tensor  # (batch, frames, conv channels), `conv` after layer norm, never masked
    layers: Sequence[Tensor]  # num_layers x (batch, frames, dim)
    is_valid: Tensor  # (batch, frames) bool, False in the padding; on the device of the given lengths

    @property
    def last(self) -> Tensor:
        """(batch, frames, dim), output of the last layer."""
        return self.layers[-1]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Position of a parameter in the encoder."""

    part: Literal["extractor", "projection", "positions", "layer"]  # mask vector and outer norms count as projection
    layer: int | None = None  # layer number, counted from 0
    layers_above: int  # 0 after the last layer, 1 in the last layer, ..., number of layers + 1 before the first layer
    is_adapter: bool = False


class SpeechEncoder(nn.Module):
    """The shared encoder: feature extractor, projection and Transformer.

    Training, sharding and monitoring code uses `dim`, `blocks`, `places` and `count_frames`, and sets trade-offs of
    time and memory with `prepare`; it does not depend on how the encoder is built.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, dim = config.conv[-1][0], config.transformer.dim
        self.conv = ConvFeatureExtractor(
            config.stack,
            config.conv_norm,
            config.conv_bias,
            padding_in_norm=config.padding_in_norm,
            log_mel=config.input == "log_mel",
        )
        self.norm = LayerNorm(channels)
        self.project = Linear(channels, dim)
        self.dropout = Dropout(config.feature_dropout)
        self.mask_vector = nn.Parameter(torch.empty(dim).uniform_())
        self.transformer = Transformer(config.transformer)

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        is_masked: Tensor | None = None,
        is_channel_masked: Tensor | None = None,
        num_layers: int | None = None,
        context: StepContext = INFERENCE,
        *,
        only_visible: bool = False,
    ) -> Encoded:
        """Encode a padded batch.

        Args:
            waveforms: (batch, time) float, 16 kHz; padding may hold anything.
            num_samples: (batch,) int64, real samples in each row. Keep it, and the masks, on the host: reading values
                there needs no synchronisation with the device.
            is_masked: (batch, frames) bool, frames to replace by the mask vector; or (masks * batch, frames), several
                masks of the whole batch, one after the other.
            is_channel_masked: (batch, dim) bool, channels to set to zero in all frames of a row.
            num_layers: number of Transformer layers to run; None for all.
            context: which layers are dropped and which are frozen in this training step.
            only_visible: run the layers on unmasked frames alone; the others are then zero in `layers`.

        Returns:
            The outputs of all stages; with several masks `layers` and `is_valid` have a row for each row of
            `is_masked`. The values of valid frames do not depend on the padding, except on its length with
            `padding_in_norm`.
        """
        with without_learning(context.num_frozen > 0):
            conv = self.extract(waveforms, num_samples)  # (batch, frames, channels)
            is_valid = within(frame_count(num_samples, self.config.stack), conv.shape[1])  # (batch, frames)
            features = self.norm(conv)
            x = self.dropout(self.project(features))  # (batch, frames, dim)
            if is_masked is not None:
                masks = len(is_masked) // len(x)
                if masks > 1:
                    x, is_valid = x.repeat(masks, 1, 1), is_valid.repeat(masks, 1)
                x = torch.where(send(is_masked, x.device)[..., None], self.mask_vector.to(x.dtype), x)
            if is_channel_masked is not None:
                x = x.masked_fill(send(is_channel_masked, x.device)[:, None], 0)
        is_visible = is_valid & ~is_masked if only_visible and is_masked is not None else None
        # a batch without a visible frame is encoded whole
        is_visible = None if is_visible is None or not bool(is_visible.any()) else is_visible
        layers = self.transformer(x, is_valid, num_layers, context, is_visible)  # num_layers x (batch, frames, dim)
        return Encoded(conv=conv, features=features, layers=layers, is_valid=is_valid)

    @property
    def dim(self) -> int:
        """Number of output channels."""
        return self.config.transformer.dim

    @property
    def blocks(self) -> Sequence[Layer]:
        """The Transformer layers, first to last: the units of sharding, compilation and recomputation."""
        return [layer for layer in self.transformer.layers if isinstance(layer, Layer)]

    @property
    def always_learns(self) -> bool:
        """Whether every trainable parameter gets a gradient from every batch: nothing is dropped or frozen."""
        is_without_gradient = self.config.conv_grad_scale == 0
        learning = any(parameter.requires_grad for parameter in self.conv.parameters())
        return self.config.transformer.layer_drop == 0 and not (is_without_gradient and learning)

    def count_frames(self, num_samples: Tensor) -> Tensor:
        """Return the (batch,) int64 numbers of frames of waveforms of (batch,) int64 samples."""
        return frame_count(num_samples, self.config.stack)

    def local_frames(self, waveform: Tensor) -> Callable[[int, int], Tensor]:
        """Prepare the extraction of ranges of frames of one (time,) waveform; see `local_extractor`."""
        return local_extractor(self.conv, waveform)

    def contextual_layers(self, conv: Tensor, num_layers: int) -> Sequence[Tensor]:
        """Map (batch, frames, channels), extracted and without padding, to num_layers x (batch, frames, dim)."""
        is_valid = torch.ones(conv.shape[:2], dtype=torch.bool)  # on the host, to avoid a synchronisation
        return self.transformer(self.project(self.norm(conv)), is_valid, num_layers)

    def places(self) -> dict[str, Place]:
        """Return the position of each parameter, by its name."""
        return {name: self._place(name) for name, _ in self.named_parameters()}

    def prepare(self, *, recompute: bool, packed: bool, compiled: bool) -> None:
        """Set trade-offs of time and memory for training, see `Transformer`; they do not change the model.

        Args:
            recompute: keep only the inputs of the layers and run each layer again in the backward pass.
            packed: run the layers on valid frames only.
            compiled: compile the layers with torch.compile.
        """
        self.transformer.recompute, self.transformer.packed = recompute, packed
        for block in self.blocks if compiled else ():
            block.compile(dynamic=True)

    def _place(self, name: str) -> Place:
        number = self.config.transformer.num_layers
        match name.split("."):
            case ["conv", *_]:
                return Place(part="extractor", layers_above=number + 1)
            case ["transformer", "layers", index, *rest]:
                is_adapter = rest[-1] in ADAPTERS
                return Place(part="layer", layer=int(index), layers_above=number - int(index), is_adapter=is_adapter)
            case ["transformer", "positions", *_]:
                return Place(part="positions", layers_above=number + 1)
            case ["transformer", "norm", *_] if self.config.transformer.norm == "pre":  # after the last layer
                return Place(part="projection", layers_above=0)
            case _:
                return Place(part="projection", layers_above=number + 1)

    def extract(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Run only the convolutions, with gradients scaled by `conv_grad_scale`: (batch, frames, channels)."""
        scale = self.config.conv_grad_scale
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            conv = self.conv(waveforms, num_samples)
        return conv if scale in (0.0, 1.0) else ScaleGradient.apply(conv, scale)

    def with_frozen_conv(self) -> Self:
        """Freeze the convolutions, as fine-tuning does; changes and returns this encoder."""
        self.config = dataclasses.replace(self.config, conv_grad_scale=0.0)
        self.conv.requires_grad_(False)
        return self

    def with_frozen_layers(self, number: int) -> Self:
        """Freeze the first `number` layers and everything before them; changes and returns this encoder."""
        before = [self.norm, self.project, self.transformer.positions]
        if self.config.transformer.norm == "post":
            before.append(self.transformer.norm)
        for module in [*before, *self.transformer.layers[:number]]:
            module.requires_grad_(False)
        self.mask_vector.requires_grad_(False)
        return self.with_frozen_conv()


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        """Return `x`."""
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        """Return the scaled gradient."""
        return gradient * ctx.scale, None
