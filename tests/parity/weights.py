"""Which parameter of ours is which of a reference; on purpose not by speechssl.hub.

One table for each reference, from the beginnings of our names to the beginnings of theirs, serves to copy weights and
to compare gradients. Three names on the right are query, key and value, which are one parameter of ours.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.model.encoder import EncoderConfig
from tests.parity.cases import Case
from tests.parity.differences import GRADIENT, assert_close

__all__ = [
    "Names",
    "assert_gradients_close",
    "assert_weights_close",
    "copy_weights",
    "fairseq2_names",
    "inside",
    "torchaudio_names",
    "transformers_names",
]

Names = dict[str, tuple[str, ...]]  # beginning of our name, a regular expression -> of theirs; () where they have none


@dataclass(frozen=True)
class Pair:
    """A parameter of ours and the parameters of theirs that, laid end to end, hold the same numbers."""

    name: str
    ours: nn.Parameter
    theirs: tuple[nn.Parameter, ...]


def _pairs(ours: nn.Module, theirs: nn.Module, names: Names) -> Iterator[Pair]:
    """Match every parameter of ours; fail where no row, or more than one, speaks of it."""
    available = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        (match, others), *more = [(found, row) for key, row in names.items() if (found := re.match(key, name))]
        assert not more, name
        theirs_of = tuple(available[match.expand(other) + name[match.end() :]] for other in others)
        yield Pair(name, parameter, theirs_of)


@torch.no_grad()
def copy_weights(ours: nn.Module, theirs: nn.Module, names: Names) -> None:
    """Give their model our weights; fail where one of their parameters is left without."""
    for parameter in theirs.parameters():
        parameter.fill_(torch.nan)
    for pair in _pairs(ours, theirs, names):
        if pair.theirs:
            for target, part in zip(pair.theirs, pair.ours.chunk(len(pair.theirs)), strict=True):
                target.copy_(part.view_as(target))
    assert not [name for name, parameter in theirs.named_parameters() if bool(parameter.isnan().any())]


def assert_gradients_close(ours: nn.Module, theirs: nn.Module, names: Names, *, reference: str, case: Case) -> None:
    """Compare the gradient of every parameter; both models may also agree that one has none."""
    for pair in _pairs(ours, theirs, names):
        if pair.ours.grad is None:
            assert all(other.grad is None for other in pair.theirs), pair.name
        else:
            for name, one, other in _parts(pair, pair.ours.grad, [other.grad for other in pair.theirs]):
                what = f"gradient: {name}"
                assert_close(one, other, what=what, reference=reference, case=case, tolerance=GRADIENT)


def assert_weights_close(ours: nn.Module, theirs: nn.Module, names: Names, *, reference: str, case: Case) -> None:
    """Compare every parameter."""
    for pair in _pairs(ours, theirs, names):
        for name, one, other in _parts(pair, pair.ours, list(pair.theirs)):
            assert_close(one, other, what=f"AdamW step: {name}", reference=reference, case=case)


def _parts(pair: Pair, ours: Tensor, theirs: list[Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Split query, key and value; not their biases, since the gradient of the key's is zero but for rounding."""
    if len(theirs) > 1 and ours.ndim == 1:
        yield pair.name, ours, torch.cat(theirs)
    elif theirs:
        chunks = ours.chunk(len(theirs))
        for index, (one, other) in enumerate(zip(chunks, theirs, strict=True)):
            yield f"{pair.name}[{index}]" if len(theirs) > 1 else pair.name, one, other.view_as(one)


def inside(names: Names, ours: str, theirs: str) -> Names:
    """Return the table for models that hold the tables' models under a name each."""
    return {re.escape(ours) + key: tuple(theirs + other for other in row) for key, row in names.items()}


def _layer_names(layers: str, projections: tuple[str, ...], out: str, rest: dict[str, str]) -> Names:
    """Return the rows of the Transformer's layers."""
    prefix = r"transformer\.layers\.(\d+)\."
    rows = {"attention\\.project_out\\.": out, **rest}
    return {
        prefix + r"attention\.project_in\.": tuple(rf"{layers}.\1.{name}." for name in projections),
        **{prefix + key: (rf"{layers}.\1.{other}.",) for key, other in rows.items()},
    }


_LAYERS_ALIKE = (  # transformers and torchaudio
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.out_proj",
    {
        r"attention_norm\.": "layer_norm",
        r"expand\.": "feed_forward.intermediate_dense",
        r"contract\.": "feed_forward.output_dense",
        r"ffn_norm\.": "final_layer_norm",
    },
)


def transformers_names() -> Names:
    """From `SpeechEncoder` to transformers' Wav2Vec2Model and HubertModel."""
    return {
        r"conv\.convs\.(\d+)\.": (r"feature_extractor.conv_layers.\1.conv.",),
        r"conv\.norms\.(\d+)\.": (r"feature_extractor.conv_layers.\1.layer_norm.",),
        r"norm\.": ("feature_projection.layer_norm.",),
        r"project\.": ("feature_projection.projection.",),
        r"mask_vector": ("masked_spec_embed",),
        r"transformer\.positions\.": ("encoder.pos_conv_embed.",),
        r"transformer\.norm\.": ("encoder.layer_norm.",),
        **_layer_names("encoder.layers", *_LAYERS_ALIKE),
    }


def torchaudio_names() -> Names:
    """From `SpeechEncoder` to torchaudio's Wav2Vec2Model, which has no mask vector."""
    return {
        r"conv\.convs\.(\d+)\.": (r"feature_extractor.conv_layers.\1.conv.",),
        r"conv\.norms\.(\d+)\.": (r"feature_extractor.conv_layers.\1.layer_norm.",),
        r"norm\.": ("encoder.feature_projection.layer_norm.",),
        r"project\.": ("encoder.feature_projection.projection.",),
        r"mask_vector": (),
        r"transformer\.positions\.": ("encoder.transformer.pos_conv_embed.",),
        r"transformer\.norm\.": ("encoder.transformer.layer_norm.",),
        **_layer_names("encoder.transformer.layers", *_LAYERS_ALIKE),
    }


def fairseq2_names(config: EncoderConfig) -> Names:
    """From `SpeechEncoder` to fairseq2's Wav2Vec2Model; its convolution of positions has torch's older weight norm."""
    position = "encoder_frontend.pos_encoder.conv."
    has_projection = config.conv[-1][0] != config.transformer.dim
    last_norm = {"post": "encoder_frontend.layer_norm.", "pre": "encoder.layer_norm."}[config.transformer.norm]
    return {
        r"conv\.convs\.(\d+)\.": (r"encoder_frontend.feature_extractor.layers.\1.conv.",),
        r"conv\.norms\.(\d+)\.": (rf"encoder_frontend.feature_extractor.layers.\1.{config.conv_norm}_norm.",),
        r"norm\.": ("encoder_frontend.post_extract_layer_norm.",),
        r"project\.": ("encoder_frontend.model_dim_proj.",) if has_projection else (),
        r"mask_vector": ("masker.temporal_mask_embed",),
        r"transformer\.positions\.conv\.bias": (position + "bias",),
        r"transformer\.positions\.conv\.parametrizations\.weight\.original0": (position + "weight_g",),
        r"transformer\.positions\.conv\.parametrizations\.weight\.original1": (position + "weight_v",),
        r"transformer\.norm\.": (last_norm,),
        **_layer_names(
            "encoder.layers",
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "self_attn.output_proj",
            {
                r"attention_norm\.": "self_attn_layer_norm",
                r"expand\.": "ffn.inner_proj",
                r"contract\.": "ffn.output_proj",
                r"ffn_norm\.": "ffn_layer_norm",
            },
        ),
    }
