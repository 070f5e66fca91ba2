"""Encoding visible frames only: speechssl.tasks.visible, and what encoder and objectives do with several masks."""

import dataclasses

import pytest
import torch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import StepContext
from speechssl.model.frames import frame_count
from speechssl.model.hourglass import HourglassConfig
from speechssl.model.masking import MaskConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.registry import task_of
from speechssl.tasks.task import DataSizes
from speechssl.tasks.teacher import TeacherConfig
from speechssl.tasks.visible import VisibleConfig, VisibleDecoder, tiled
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, TINY_STACK, noise, randomise, tiny_encoder

VISIBLE = VisibleConfig(masks=2, layers=2, kernel=3, groups=4)
MASK = MaskConfig(start_prob=0.2, span=3)
OBJECTIVES = {
    "labels": MaskedPredictionConfig(dim=8, mask=MASK, visible=VISIBLE, unmasked_weight=0.5),
    "random": RandomProjectionConfig(codebook=CodebookConfig(entries=5, dim=4, bins=6), mask=MASK, visible=VISIBLE),
    "regression": TeacherConfig(layers=2, mask=MASK, visible=VISIBLE, feature_penalty=1.0),
    "codebooks": TeacherConfig(layers=1, form="codebooks", mask=MASK, visible=VISIBLE),
}
LENGTHS = torch.tensor([820, 430, 610])
COUNTS = frame_count(LENGTHS, TINY_STACK)
SIZE = int(COUNTS.max())


def _masks(number: int, seed: int = 0) -> Tensor:
    drawn = torch.rand(number, SIZE, generator=torch.Generator().manual_seed(seed)) < 0.5
    return drawn & (torch.arange(SIZE) < COUNTS.repeat(number // 3)[:, None])


def _batch() -> Batch:
    labels = torch.randint(5, (1, 3, SIZE), generator=torch.Generator().manual_seed(0))
    return Batch(ids=tuple("abc"), waveforms=noise(3, 820), num_samples=LENGTHS, labels=labels)


def _model(kind: str, **changes: object) -> PretrainModel:
    config = dataclasses.replace(OBJECTIVES[kind], **changes)
    torch.manual_seed(0)
    model = task_of(config).build(config, tiny_encoder(), DataSizes(clusters=(5,) if kind == "labels" else ()))
    randomise(model.objective)
    return model.train()


@pytest.mark.parametrize("shape", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
def test_layers_see_the_unmasked_frames_and_nothing_else(shape) -> None:
    encoder, is_masked = tiny_encoder(shape), _masks(3)
    found = encoder(noise(3, 820), LENGTHS, is_masked, only_visible=True)
    x = encoder.project(found.features)
    x = torch.where(is_masked[..., None], encoder.mask_vector, x).masked_fill(~found.is_valid[..., None], 0)
    x = x + encoder.transformer.positions(x)
    if shape.transformer.norm == "post":
        x = encoder.transformer.norm(x)
    for row in range(3):
        visible = x[row][found.is_valid[row] & ~is_masked[row]][None]
        for layer in encoder.transformer.layers:
            visible = layer(visible, None)
        if shape.transformer.norm == "pre":
            visible = encoder.transformer.norm(visible)
        torch.testing.assert_close(
            found.last[row][found.is_valid[row] & ~is_masked[row]], visible[0], rtol=1e-4, atol=1e-5
        )
        assert not found.last[row][is_masked[row]].any()


def test_frames_that_are_not_seen_are_not_averaged_in_an_hourglass() -> None:
    shape = dataclasses.replace(
        BASE_LIKE,
        transformer=dataclasses.replace(
            BASE_LIKE.transformer, num_layers=1, hourglass=HourglassConfig(factor=2, before=0, after=0)
        ),
    )
    encoder, is_masked = tiny_encoder(shape), torch.zeros(3, SIZE, dtype=torch.bool)
    is_masked[:, 1::2] = True  # one frame of each group is seen, so that its average is the frame itself
    found = encoder(noise(3, 820), LENGTHS, is_masked, only_visible=True)
    plain = tiny_encoder(dataclasses.replace(shape, transformer=dataclasses.replace(shape.transformer, hourglass=None)))
    expected = plain(noise(3, 820), LENGTHS, is_masked, only_visible=True)
    x = torch.where(is_masked[..., None], plain.mask_vector, plain.project(found.features))
    x = x.masked_fill(~found.is_valid[..., None], 0)
    entering = plain.transformer.norm(x + plain.transformer.positions(x))
    is_seen = found.is_valid & ~is_masked
    torch.testing.assert_close(found.last[is_seen], (entering + expected.last)[is_seen], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("only_visible", [False, True])
def test_several_masks_give_what_each_gives_alone(only_visible) -> None:
    encoder, is_masked = tiny_encoder(), _masks(6)
    together = encoder(noise(3, 820), LENGTHS, is_masked, only_visible=only_visible)
    assert len(together.features) == 3
    for half in range(2):
        rows = slice(3 * half, 3 * half + 3)
        alone = encoder(noise(3, 820), LENGTHS, is_masked[rows], only_visible=only_visible)
        assert torch.equal(together.is_valid[rows], alone.is_valid)
        is_seen = alone.is_valid & ~is_masked[rows] if only_visible else alone.is_valid
        torch.testing.assert_close(together.last[rows][is_seen], alone.last[is_seen], rtol=1e-4, atol=1e-5)


def test_a_batch_whose_frames_are_all_masked_is_encoded_whole() -> None:
    encoder = tiny_encoder()
    everything = torch.arange(SIZE) < COUNTS[:, None]
    assert encoder(noise(3, 820), LENGTHS, everything, only_visible=True).last[everything].abs().sum(-1).all()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_loss_of_several_masks_is_the_sum_over_them(kind) -> None:
    model = _model(kind)
    masks = _masks(6)

    def loss(rows: slice, number: int):
        model.objective.decoder.masks = number
        model.objective.draw_masks = lambda counts, size, generator: masks[rows]
        return model.eval()(_batch(), StepContext(generator=torch.Generator()))

    with torch.no_grad():
        together, parts = loss(slice(0, 6), 2), [loss(slice(0, 3), 1), loss(slice(3, 6), 1)]
    assert int(together.count) == sum(int(part.count) for part in parts)
    assert float(together.value) == pytest.approx(sum(float(part.value) for part in parts), rel=1e-4)


@pytest.mark.parametrize("decoder", ["conv", "transformer"])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_encoder_and_decoder_learn(kind, decoder) -> None:
    model = _model(kind, visible=dataclasses.replace(VISIBLE, decoder=decoder))
    model(_batch(), StepContext(generator=torch.Generator().manual_seed(1))).value.backward()
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert {name.split(".")[1] for name in learning if name.startswith("objective")} >= {"decoder"}
    for name, parameter in learning.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["conv", "transformer"])
def test_decoded_frames_do_not_depend_on_the_padding(kind) -> None:
    torch.manual_seed(0)
    decoder = VisibleDecoder(dataclasses.replace(VISIBLE, decoder=kind), BASE_LIKE).eval()
    x, is_visible = noise(1, 9, 32), torch.tensor([[True, False, False, True, True, False, True, True, False]])
    alone = decoder(x, is_visible, torch.ones(1, 9, dtype=torch.bool))
    padded = torch.cat([x, noise(1, 4, 32, seed=1)], 1)
    longer = torch.cat([is_visible, torch.ones(1, 4, dtype=torch.bool)], 1)
    found = decoder(padded, longer, (torch.arange(13) < 9)[None])
    torch.testing.assert_close(found[:, :9], alone, rtol=1e-5, atol=1e-5)
    hidden = torch.where(is_visible[..., None], x, noise(1, 9, 32, seed=2))  # what masked frames hold is not read
    torch.testing.assert_close(decoder(hidden, is_visible, torch.ones(1, 9, dtype=torch.bool)), alone)


def test_units_of_unmasked_audio_pass_through_the_decoder() -> None:
    model = _model("labels").eval()
    x = noise(7, 32)
    units, number = model.objective.predicted_units(x)
    everything = torch.ones(1, 7, dtype=torch.bool)
    expected = model.objective.logits(model.objective.decoder(x[None], everything, everything)[0])[0].argmax(-1)
    assert torch.equal(units, expected)
    assert number == 5


def test_groups_that_do_not_divide_the_dimension_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective\.visible\.groups=5: expected a divisor of .*dim=32"):
        _model("labels", visible=VisibleConfig(groups=5))
    with pytest.raises(ConfigError, match="from 1 up, found 0, 2, 7 and 16"):
        VisibleConfig(masks=0)


def test_rows_are_tiled_mask_after_mask() -> None:
    assert tiled(torch.tensor([[1], [2]]), 4).tolist() == [[1], [2], [1], [2]]
