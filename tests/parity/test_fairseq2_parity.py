"""The trunk, the contrastive objective and CTC against fairseq2's wav2vec 2.0, with the same weights.

Where they differ by design: fairseq2 takes the group norm's statistics over the padding too, which
`EncoderConfig.padding_in_norm` does as well, and the feature penalty, for which there is no switch; it scales the
extractor's gradient in training only, ours always; it has no projection where the extractor is as wide as the
Transformer, ours is then the identity.
"""

import dataclasses

import pytest
import torch

from speechssl.model.context import StepContext
from tests.optional import NO_FAIRSEQ2

pytest.importorskip("fairseq2", reason=NO_FAIRSEQ2)

from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig, Wav2Vec2Loss, create_wav2vec2_model
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, Wav2Vec2AsrModel, create_wav2vec2_asr_model
from fairseq2.models.wav2vec2.model import Wav2Vec2Model, Wav2Vec2Output
from fairseq2.nn import BatchLayout
from torch import Tensor

from speechssl.model.encoder import EncoderConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, TINY_STACK
from tests.parity.cases import CASES, TINY, TRAINED, VOCABULARY, Case, Draws, Speech
from tests.parity.stages import Stages, channels_last, first, our_stages, watch
from tests.parity.training import SEED, Duo, gumbel_softmax_of, our_contrastive, our_ctc, our_score
from tests.parity.weights import fairseq2_names, inside

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`hg_exporter` is deprecated:DeprecationWarning"),  # fairseq2's use of its own
]

PADDED = pytest.mark.parametrize("is_padded", [False, True], ids=["whole", "padded"])
GRADIENT_SCALE = 0.1


def _settings(case: Case) -> Wav2Vec2EncoderConfig:
    config, transformer = case.config, case.config.transformer
    return Wav2Vec2EncoderConfig(
        model_dim=transformer.dim,
        feature_dim=config.conv[-1][0],
        layer_norm_features=transformer.norm == "post",
        feature_extractor_layer_descs=list(config.conv),
        feature_extractor_bias=config.conv_bias,
        feature_extractor_layer_norm_convs=config.conv_norm == "layer",
        feature_grad_scale=GRADIENT_SCALE,
        pos_conv_kernel_size=transformer.position_kernel,
        num_pos_conv_groups=transformer.position_groups,
        num_encoder_layers=transformer.num_layers,
        num_encoder_attn_heads=transformer.num_heads,
        ffn_inner_dim=transformer.ffn_dim,
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
        norm_order={"post": TransformerNormOrder.POST, "pre": TransformerNormOrder.PRE}[transformer.norm],
    )


def _scaled(case: Case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(case.config, conv_grad_scale=GRADIENT_SCALE))


def _pretraining_duo(case: Case) -> Duo:
    contrastive, quantizer = case.contrastive, case.contrastive.quantizer
    theirs = create_wav2vec2_model(
        Wav2Vec2Config(
            encoder_config=_settings(case),
            final_dim=contrastive.dim,
            quantized_dim=quantizer.dim,
            num_codebooks=quantizer.groups,
            num_codebook_entries=quantizer.entries,
            num_distractors=contrastive.negatives,
            logit_temp=contrastive.temperature,
        )
    )
    names = {
        **inside(fairseq2_names(case.config), "encoder.", ""),
        r"objective\.quantizer\.score\.": ("quantizer.entry_proj.",),
        r"objective\.quantizer\.codebook": ("quantizer.entries",),
        r"objective\.project_quantized\.": ("final_target_proj.",),
        r"objective\.project_context\.": ("final_proj.",),
    }
    return Duo.of("fairseq2", case, our_contrastive(_scaled(case)), theirs, names)


def _ctc_duo(case: Case) -> Duo:
    config = Wav2Vec2AsrConfig(encoder_config=_settings(case), target_vocab_size=VOCABULARY, use_masking=False)
    trunk = {**fairseq2_names(case.config), "mask_vector": ()}
    names = {**inside(trunk, "encoder.", ""), r"head\.": ("final_proj.",)}
    return Duo.of("fairseq2", case, our_ctc(_scaled(case)), create_wav2vec2_asr_model(config), names)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def pretraining(request: pytest.FixtureRequest) -> Duo:
    return _pretraining_duo(request.param)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def ctc(request: pytest.FixtureRequest) -> Duo:
    return _ctc_duo(request.param)


def _layout(speech: Speech, *, is_padded: bool) -> BatchLayout:
    return BatchLayout.of(speech.waveforms, speech.num_samples.tolist() if is_padded else None)


def _stages(model: Wav2Vec2Model | Wav2Vec2AsrModel) -> Stages:
    frontend = model.encoder_frontend
    stages: Stages = {
        "extractor": (frontend.feature_extractor, first),
        "features": (frontend.post_extract_layer_norm, first),
        "projection": (frontend.model_dim_proj, first),
        "positions": (frontend.pos_encoder.activation, channels_last),
        **{f"layer {index}": (layer, first) for index, layer in enumerate(model.encoder.layers)},
        "final": (model.encoder, first),
    }
    return {name: stage for name, stage in stages.items() if stage[0] is not None}


def _assert_stages_equal(duo: Duo, *, is_padded: bool) -> None:
    """Compare what leaves each stage, and the mask where the model has one."""
    duo.train(False)
    encoder = duo.ours.encoder
    speech = Speech.of(duo.case, is_padded=is_padded).to(encoder.mask_vector.dtype)
    layout = _layout(speech, is_padded=is_padded)
    if isinstance(duo.theirs, Wav2Vec2Model):
        duo.theirs.masker.mask_factory = lambda **_: speech.is_masked
        masks = (speech.is_masked,)
        expected = watch(_stages(duo.theirs), lambda: duo.theirs.extract_features(speech.waveforms, layout))
    else:
        masks = ()
        expected = watch(_stages(duo.theirs), lambda: duo.theirs(speech.waveforms, layout))
    found = watch(our_stages(encoder), lambda: encoder(speech.waveforms, speech.num_samples, *masks))
    for name, output in expected.items():
        duo.assert_close(found[name][speech.is_valid], output[speech.is_valid], f"stage: {name}")


@PADDED
def test_every_stage_of_masked_speech_equals_the_pretraining_models(pretraining: Duo, is_padded: bool) -> None:
    _assert_stages_equal(pretraining, is_padded=is_padded)


@PADDED
def test_every_stage_equals_the_asr_models(ctc: Duo, is_padded: bool) -> None:
    _assert_stages_equal(ctc, is_padded=is_padded)


def _their_output(
    duo: Duo, speech: Speech, monkeypatch: pytest.MonkeyPatch, *, step: int = 0, penalty: float = 10.0
) -> tuple[Wav2Vec2Loss, Wav2Vec2Output]:
    """Score a batch with the masks, the noise, the negatives and the temperature that ours has."""
    drawn = Draws.of(duo.case, speech, SEED + step, is_training=duo.theirs.training)
    noise = gumbel_softmax_of(drawn.gumbel.flatten(0, 1))
    monkeypatch.setattr("fairseq2.models.wav2vec2.vector_quantizer.gumbel_softmax", noise)
    duo.theirs.quantizer.num_updates.fill_(step)
    duo.theirs.masker.mask_factory = lambda **_: speech.is_masked

    def sample(targets: Tensor) -> Tensor:
        batch, masked, dim = targets.shape
        return targets.flatten(0, 1)[drawn.negatives].view(batch, masked, -1, dim)

    duo.theirs._sample_distractors = sample
    layout = _layout(speech, is_padded=int(speech.num_samples.min()) < speech.waveforms.shape[1])
    with torch.compiler.set_stance("force_eager"):  # its quantizer compiles a sum
        return duo.theirs(speech.waveforms, layout, features_penalty_weight=penalty)


def _without_penalty_if(is_padded: bool, duo: Duo) -> float:
    """Take theirs over the padding out of the comparison; return its weight."""
    objective = duo.ours.objective
    weight = 0.0 if is_padded else duo.case.contrastive.feature_penalty
    objective.config = dataclasses.replace(objective.config, feature_penalty=weight)
    return weight


@PADDED
@pytest.mark.parametrize("is_training", [False, True], ids=["evaluation", "training"])
def test_losses_and_logits_equal_theirs(
    pretraining: Duo, is_training: bool, is_padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretraining.train(is_training)
    penalty = _without_penalty_if(is_padded, pretraining)
    speech = Speech.of(pretraining.case, is_padded=is_padded)
    with torch.no_grad():
        found = our_score(pretraining.ours, speech)
        loss, output = _their_output(pretraining, speech, monkeypatch, penalty=penalty)
    count = int(speech.is_masked.sum())
    assert int(found.count) == output.num_targets == count
    expected = {
        "contrastive_loss": loss.contrastive / count,
        "diversity_loss": loss.diversity / count,
        "soft_perplexity": output.quantizer_output.prob_perplexity,
        "code_perplexity": output.quantizer_output.code_perplexity,
    }
    if not is_padded:
        expected["feature_penalty"] = loss.features_penalty / count
    for name, value in expected.items():
        pretraining.assert_close(found.parts[name], value, f"loss: {name}")
    pretraining.assert_close(found.value, loss.aggregate, "loss: total")


@PADDED
def test_gradients_equal_theirs(pretraining: Duo, is_padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pretraining.train()
    penalty = _without_penalty_if(is_padded, pretraining)
    speech = Speech.of(pretraining.case, is_padded=is_padded)
    found = our_score(pretraining.ours, speech).value
    pretraining.assert_gradients_close(
        found, _their_output(pretraining, speech, monkeypatch, penalty=penalty)[0].aggregate
    )


@pytest.mark.parametrize("pretraining", CASES[:-1], indirect=True, ids=lambda case: case.name)
def test_gradients_and_a_step_equal_theirs_in_double_precision(
    pretraining: Duo, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretraining.train()
    _without_penalty_if(False, pretraining)
    speech = Speech.of(pretraining.case, is_padded=False).to(torch.float64)
    with pretraining.in_double_precision():
        found = our_score(pretraining.ours, speech).value
        pretraining.assert_step_equal(found, _their_output(pretraining, speech, monkeypatch)[0].aggregate)


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_training_equals_theirs(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    duo = _pretraining_duo(case)
    speech = Speech.of(case, is_padded=False)
    count = int(speech.is_masked.sum())
    duo.assert_training_equal(
        lambda step: our_score(duo.ours, speech, step).value / count,
        lambda step: _their_output(duo, speech, monkeypatch, step=step)[0].aggregate / count,
    )


@pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
def test_extractor_as_wide_as_the_transformer_has_the_identity_for_a_projection(config: EncoderConfig) -> None:
    wide = (*TINY_STACK[:-1], (config.transformer.dim, *TINY_STACK[-1][1:]))
    config = dataclasses.replace(config, conv=wide, padding_in_norm=True)
    duo = _ctc_duo(dataclasses.replace(CASES[0], config=config))
    assert duo.theirs.encoder_frontend.model_dim_proj is None
    _assert_ctc_equal(duo)
    with duo.in_double_precision():
        for is_padded in (False, True):
            _assert_stages_equal(duo, is_padded=is_padded)


def _their_ctc(duo: Duo, speech: Speech) -> tuple[Tensor, Tensor]:
    """Return loss and logits."""
    targets = BatchLayout.of(speech.targets, speech.target_lengths.tolist())
    layout = _layout(speech, is_padded=True)
    loss, logits, found = duo.theirs(speech.waveforms, layout, speech.targets, targets, return_logits=True)
    assert list(found.seq_lens) == speech.counts.tolist()
    return loss, logits


def _assert_ctc_equal(duo: Duo) -> None:
    duo.train()  # it has no masks
    speech = Speech.of(duo.case, is_padded=True)
    encoded = duo.ours.encoder(speech.waveforms, speech.num_samples)
    logits = duo.ours.head(encoded.last)
    found = duo.ours(speech.batch, StepContext(step=0, generator=torch.Generator())).value
    expected, their_logits = _their_ctc(duo, speech)
    duo.assert_close(logits[speech.is_valid], their_logits[speech.is_valid], "loss: CTC logits")
    duo.assert_close(found, expected, "loss: CTC")
    duo.assert_gradients_close(found, expected)


def test_ctc_loss_logits_and_gradients_equal_the_asr_models(ctc: Duo) -> None:
    _assert_ctc_equal(ctc)


@pytest.mark.parametrize("case", TINY[:2], ids=lambda case: case.name)
def test_ctc_training_equals_the_asr_models(case: Case) -> None:
    duo = _ctc_duo(case)
    speech = Speech.of(case, is_padded=True)
    duo.assert_training_equal(
        lambda _: duo.ours(speech.batch, StepContext(step=0, generator=torch.Generator())).value / 3,
        lambda _: _their_ctc(duo, speech)[0] / 3,
    )
