"""The trunk, masked prediction and CTC against torchaudio, with the same weights.

Where they differ by design: torchaudio's logits hold the true unit twice, first and then struck out at its own place;
it takes the group norm's statistics over padded frames too, which `EncoderConfig.padding_in_norm` does as well, and the
feature penalty, for which there is no switch; its recipe multiplies the penalty by the number of masked frames, ours
like fairseq's by the number of all frames that have a weight.
"""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.models import HuBERTPretrainModel, Wav2Vec2Model, hubert_pretrain_model, wav2vec2_model

from speechssl.model.context import INFERENCE, StepContext
from speechssl.tasks.masked_prediction import MaskedPredictionObjective
from tests.parity.cases import CASES, CLUSTERS, TINY, TRAINED, VOCABULARY, Case, Speech
from tests.parity.stages import Stages, first, our_stages, watch
from tests.parity.training import Duo, our_ctc, our_masked_prediction, our_score
from tests.parity.weights import inside, torchaudio_names
from tests.tasks.labelled import labelled

pytestmark = pytest.mark.parity

PADDED = pytest.mark.parametrize("is_padded", [False, True], ids=["whole", "padded"])
GRADIENT_SCALE = 0.1
NO_MASKS = {  # the masks are given, but the constructor wants to know
    "mask_prob": 0.8,
    "mask_selection": "static",
    "mask_other": 0.0,
    "mask_length": 10,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "mask_channel_prob": 0.0,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "mask_channel_length": 10,
    "no_mask_channel_overlap": False,
    "mask_channel_min_space": 1,
}


def _settings(case: Case) -> dict[str, object]:
    config, transformer = case.config, case.config.transformer
    return {
        "extractor_mode": f"{config.conv_norm}_norm",
        "extractor_conv_layer_config": list(config.conv),
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": transformer.dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": transformer.position_kernel,
        "encoder_pos_conv_groups": transformer.position_groups,
        "encoder_num_layers": transformer.num_layers,
        "encoder_num_heads": transformer.num_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": transformer.ffn_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": transformer.norm == "pre",
        "encoder_layer_drop": 0.0,
    }


class _GivenMask(nn.Module):
    """Stands in for torchaudio's mask generator, with its parameter."""

    def __init__(self, mask_embedding: nn.Parameter) -> None:
        super().__init__()
        self.mask_embedding = mask_embedding
        self.is_masked = torch.empty(0)

    def forward(self, x: Tensor, _padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(self.is_masked[..., None], self.mask_embedding, x), self.is_masked


def _hubert_duo(case: Case) -> Duo:
    config = dataclasses.replace(case.config, conv_grad_scale=GRADIENT_SCALE)
    theirs = hubert_pretrain_model(
        **_settings(case),
        **NO_MASKS,
        skip_masked=False,
        skip_nomask=False,
        num_classes=CLUSTERS,
        final_dim=case.masked_prediction.dim,
        feature_grad_mult=GRADIENT_SCALE,
    )
    theirs.mask_generator = _GivenMask(theirs.mask_generator.mask_embedding)
    trunk = torchaudio_names()
    del trunk["mask_vector"]
    names = {
        **inside(trunk, "encoder.", "wav2vec2."),
        r"encoder\.mask_vector": ("mask_generator.mask_embedding",),
        r"objective\.project\.": ("logit_generator.final_proj.",),
        r"objective\.embeddings\.0": ("logit_generator.label_embeddings",),
    }
    ours = our_masked_prediction(dataclasses.replace(case, config=config))
    return Duo.of("torchaudio", case, ours, theirs, names)


def _ctc_duo(case: Case) -> Duo:
    names = {**inside(torchaudio_names(), "encoder.", ""), r"head\.": ("aux.",)}
    theirs = wav2vec2_model(**_settings(case), aux_num_out=VOCABULARY)
    return Duo.of("torchaudio", case, our_ctc(case), theirs, names)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def hubert(request: pytest.FixtureRequest) -> Duo:
    return _hubert_duo(request.param)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def ctc(request: pytest.FixtureRequest) -> Duo:
    return _ctc_duo(request.param)


def _stages(trunk: Wav2Vec2Model) -> Stages:
    transformer = trunk.encoder.transformer
    return {
        "extractor": (trunk.feature_extractor, first),
        "features": (trunk.encoder.feature_projection.layer_norm, first),
        "projection": (trunk.encoder.feature_projection.projection, first),
        "positions": (transformer.pos_conv_embed, first),
        **{f"layer {index}": (layer, first) for index, layer in enumerate(transformer.layers)},
        "final": (transformer, first),
    }


def _their_output(theirs: HuBERTPretrainModel, speech: Speech) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of masked and of unmasked frames, and the feature penalty."""
    theirs.mask_generator.is_masked = speech.is_masked
    return theirs(speech.waveforms, speech.labels, speech.num_samples)


def _their_loss(duo: Duo, speech: Speech) -> Tensor:
    """Return the loss as fairseq's criterion and torchaudio's recipe make it of such logits."""
    config = duo.ours.objective.config
    masked, unmasked, penalty = _their_output(duo.theirs, speech)
    on_masked, on_unmasked = (
        functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
        for logits in (masked, unmasked)
    )
    frames = len(masked) + len(unmasked)
    loss = config.masked_weight * on_masked + config.unmasked_weight * on_unmasked
    return loss + config.feature_penalty * penalty * frames


def _without_penalty_if(is_padded: bool, duo: Duo) -> None:
    """Take theirs over the padding out of the comparison."""
    objective = duo.ours.objective
    weight = 0.0 if is_padded else duo.case.masked_prediction.feature_penalty
    objective.config = dataclasses.replace(objective.config, feature_penalty=weight)


@PADDED
def test_every_stage_of_masked_speech_equals_hubert_pretrain_models(hubert: Duo, is_padded: bool) -> None:
    hubert.train(False)
    speech = Speech.of(hubert.case, is_padded=is_padded)
    encoder = hubert.ours.encoder
    found = watch(our_stages(encoder), lambda: encoder(speech.waveforms, speech.num_samples, speech.is_masked))
    expected = watch(_stages(hubert.theirs.wav2vec2), lambda: _their_output(hubert.theirs, speech))
    for name, output in found.items():
        hubert.assert_close(output[speech.is_valid], expected[name][speech.is_valid], f"stage: {name}")


@PADDED
def test_every_stage_equals_wav2vec2_models(ctc: Duo, is_padded: bool) -> None:
    ctc.train(False)
    speech = Speech.of(ctc.case, is_padded=is_padded)
    encoder = ctc.ours.encoder
    found = watch(our_stages(encoder), lambda: encoder(speech.waveforms, speech.num_samples))
    lengths = speech.num_samples if is_padded else None
    expected = watch(_stages(ctc.theirs), lambda: ctc.theirs(speech.waveforms, lengths))
    for name, output in found.items():
        ctc.assert_close(output[speech.is_valid], expected[name][speech.is_valid], f"stage: {name}")


def test_extracted_features_are_the_layers_without_the_last_norm(ctc: Duo) -> None:
    ctc.train(False)
    speech = Speech.of(ctc.case, is_padded=False)
    with torch.no_grad():
        found = ctc.ours.encoder(speech.waveforms, speech.num_samples).layers
        expected, _ = ctc.theirs.extract_features(speech.waveforms)
        if ctc.case.config.transformer.norm == "pre":
            expected[-1] = ctc.theirs.encoder.transformer.layer_norm(expected[-1])
    for index, (layer, other) in enumerate(zip(found, expected, strict=True)):
        ctc.assert_close(layer, other, f"stage: extracted feature {index}")


def _logits(model: MaskedPredictionObjective, last: Tensor, labels: Tensor) -> Tensor:
    """Return our logits as theirs: the true unit first, then all units with the true one struck out."""
    logits = model.logits(last)[0]
    is_true = functional.one_hot(labels, CLUSTERS).bool()
    return torch.cat([logits[is_true][:, None], logits.masked_fill(is_true, -torch.inf)], 1)


@PADDED
def test_losses_and_logits_equal_hubert_pretrain_models(hubert: Duo, is_padded: bool) -> None:
    hubert.train()
    _without_penalty_if(is_padded, hubert)
    speech = Speech.of(hubert.case, is_padded=is_padded)
    with torch.no_grad():
        encoded = hubert.ours.encoder(speech.waveforms, speech.num_samples, speech.is_masked)
        found = hubert.ours.objective(encoded, speech.is_masked, labelled(speech.labels[None]), INFERENCE)
        masked, unmasked, penalty = _their_output(hubert.theirs, speech)
    chosen = {"masked": (speech.is_masked, masked), "unmasked": (~speech.is_masked & speech.is_valid, unmasked)}
    assert int(found.count) == len(masked) + len(unmasked) == int(speech.is_valid.sum())
    for name, (is_chosen, logits) in chosen.items():
        our_logits = _logits(hubert.ours.objective, encoded.last[is_chosen], speech.labels[is_chosen])
        hubert.assert_close(our_logits, logits, f"loss: {name} logits")
        their_loss = functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        hubert.assert_close(found.parts[f"{name}_loss"], their_loss, f"loss: {name}")
    if not is_padded:
        hubert.assert_close(found.parts["feature_penalty"], penalty, "loss: feature penalty")


@PADDED
def test_gradients_equal_hubert_pretrain_models(hubert: Duo, is_padded: bool) -> None:
    hubert.train()
    _without_penalty_if(is_padded, hubert)
    speech = Speech.of(hubert.case, is_padded=is_padded)
    found, expected = our_score(hubert.ours, speech).value, _their_loss(hubert, speech)
    hubert.assert_close(found, expected, "loss: total")
    hubert.assert_gradients_close(found, expected)


@pytest.mark.parametrize("hubert", CASES[:-1], indirect=True, ids=lambda case: case.name)
def test_gradients_and_a_step_equal_hubert_pretrain_models_in_double_precision(hubert: Duo) -> None:
    hubert.train()
    _without_penalty_if(False, hubert)
    speech = Speech.of(hubert.case, is_padded=False).to(torch.float64)
    with hubert.in_double_precision():
        hubert.assert_step_equal(our_score(hubert.ours, speech).value, _their_loss(hubert, speech))


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_training_equals_hubert_pretrain_models(case: Case) -> None:
    duo = _hubert_duo(case)
    speech = Speech.of(case, is_padded=False)
    frames = int(speech.is_valid.sum())
    duo.assert_training_equal(
        lambda _: our_score(duo.ours, speech).value / frames, lambda _: _their_loss(duo, speech) / frames
    )


def test_feature_penalty_of_torchaudio_counts_the_padding() -> None:
    duo = _hubert_duo(CASES[1])
    duo.train(False)
    speech = Speech.of(duo.case, is_padded=True)
    seen = watch(
        {"extractor": (duo.theirs.wav2vec2.feature_extractor, first)}, lambda: _their_output(duo.theirs, speech)
    )
    with torch.no_grad():
        penalty = _their_output(duo.theirs, speech)[2]
        found = our_score(duo.ours, speech).parts["feature_penalty"]
    torch.testing.assert_close(penalty, seen["extractor"].square().mean())
    torch.testing.assert_close(found, seen["extractor"][speech.is_valid].square().mean())
    assert abs(penalty / found - 1) > 1e-3


def _their_ctc(duo: Duo, speech: Speech) -> tuple[Tensor, Tensor]:
    """Return the logits and the loss that torchaudio's recipe makes of them."""
    logits, counts = duo.theirs(speech.waveforms, speech.num_samples)
    log_probabilities = logits.log_softmax(-1).transpose(0, 1)
    lengths = (counts, speech.target_lengths)
    loss = functional.ctc_loss(log_probabilities, speech.targets, *lengths, reduction="sum", zero_infinity=True)
    return logits, loss


def test_ctc_loss_logits_and_gradients_equal_those_of_wav2vec2_model_with_a_head(ctc: Duo) -> None:
    ctc.train()
    speech = Speech.of(ctc.case, is_padded=True)
    logits, counts = ctc.ours.logits(speech.batch)
    assert torch.equal(counts, speech.counts)
    found = ctc.ours(speech.batch, StepContext(step=0, generator=torch.Generator())).value
    their_logits, expected = _their_ctc(ctc, speech)
    ctc.assert_close(logits[speech.is_valid], their_logits[speech.is_valid], "loss: CTC logits")
    ctc.assert_close(found, expected, "loss: CTC")
    ctc.assert_gradients_close(found, expected)


@pytest.mark.parametrize("case", TINY[:2], ids=lambda case: case.name)
def test_ctc_training_equals_that_of_wav2vec2_model_with_a_head(case: Case) -> None:
    duo = _ctc_duo(case)
    speech = Speech.of(case, is_padded=True)
    duo.assert_training_equal(
        lambda _: duo.ours(speech.batch, StepContext(step=0, generator=torch.Generator())).value / 3,
        lambda _: _their_ctc(duo, speech)[1] / 3,
    )
