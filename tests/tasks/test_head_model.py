"""Encoders that learn with a head: the numbers of frozen features, what learns, and what the loop counts."""

import copy

import pytest
import torch

from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.first_input import first_inputs
from speechssl.model.frames import frame_count
from speechssl.model.lora import LoraConfig
from speechssl.model.transformer import TransformerConfig
from speechssl.tasks.frame_classes import FrameClassesConfig
from speechssl.tasks.head_model import HeadModel
from speechssl.tasks.head_registry import head_of
from speechssl.tasks.heads import UNLABELLED, HeadSizes
from speechssl.tasks.layer_sum import normalised
from speechssl.tasks.utterance_classes import UtteranceClassesConfig
from speechssl.tasks.utterance_values import UtteranceValuesConfig
from speechssl.train.optim import OptimConfig, build_optimizer, set_learning_rate
from tests.model.tiny import noise

SAMPLES, CLASSES, LAYERS = (1600, 900, 1300), 3, (0, 1, 2)
CONFIGS = [
    UtteranceClassesConfig(column="speaker", projector=8),
    UtteranceClassesConfig(column="speaker", projector=0, pooling="attentive_statistics", layer_norm=True),
    FrameClassesConfig(of="phones", projector=8, class_weights="balanced"),
    UtteranceValuesConfig(column="age", projector=8),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


def trunk(norm: str = "post") -> SpeechEncoder:
    torch.manual_seed(7)
    transformer = TransformerConfig(
        dim=8,
        num_layers=2,
        num_heads=2,
        ffn_dim=8,
        position_kernel=4,
        position_groups=2,
        norm=norm,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layer_drop=0.0,
    )
    config = EncoderConfig(conv=((4, 10, 5), (4, 4, 4)), feature_dropout=0.0, transformer=transformer)
    return SpeechEncoder(config)


def built(config, encoder: SpeechEncoder, **changes: object) -> HeadModel:
    torch.manual_seed(0)
    head = head_of(config)
    outputs = 1 if head.answers == "values" else CLASSES
    network = head.network(config, HeadSizes(layers=len(LAYERS), dim=8, outputs=outputs, mean=40.0, std=5.0))
    given = {"layers": LAYERS, "layer_norm": config.layer_norm, "weights": weights_of(config)} | changes
    return HeadModel(encoder, network, head, **given)


def weights_of(config):
    return None if head_of(config).answers == "values" else head_of(config).weights(config, [5, 1, 3])


def batch_of(config) -> Batch:
    waveforms = torch.zeros(len(SAMPLES), max(SAMPLES))
    for row, samples in zip(waveforms, SAMPLES, strict=True):
        row[:samples] = noise(samples, seed=samples)
    labels = targets = None
    match head_of(config).answers:
        case "classes":
            targets = torch.tensor([[2], [0], [1]])
        case "values":
            targets = torch.tensor([[30.5], [41.0], [52.25]])
        case "frame_classes":
            frames = int(frame_count(torch.tensor(max(SAMPLES)), ((4, 10, 5), (4, 4, 4))))
            labels = (torch.arange(3 * frames).reshape(1, 3, frames) // 3) % CLASSES
            labels[:, :, 4] = UNLABELLED
    return Batch(
        ids=("a", "b", "c"), waveforms=waveforms, num_samples=torch.tensor(SAMPLES), labels=labels, targets=targets
    )


@every_config
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_with_a_rate_of_0_for_the_encoder_a_head_learns_as_on_frozen_features(config, norm):
    head, batch, encoder = head_of(config), batch_of(config), trunk(norm)
    features = []  # of each utterance alone, as `extract` computes them
    with torch.no_grad():
        for waveform, samples in zip(batch.waveforms, SAMPLES, strict=True):
            with first_inputs(encoder.transformer) as inputs:
                layers = encoder.eval()(waveform[None, :samples], torch.tensor([samples])).layers
            stacked = torch.stack([inputs[0], *layers], 1)[0]
            features.append(normalised(stacked) if config.layer_norm else stacked)
    frames = torch.tensor([each.shape[1] for each in features])
    padded = torch.zeros(3, 3, int(frames.max()), 8)
    for row, each in zip(padded, features, strict=True):
        row[:, : each.shape[1]] = each
    is_valid = torch.arange(padded.shape[2]) < frames[:, None]
    tuned = built(config, encoder, freeze_conv=False).train()
    frozen = copy.deepcopy(tuned.network)
    before = {name: each.clone() for name, each in tuned.encoder.state_dict().items()}
    answers = batch.targets[:, 0] if batch.labels is None else batch.labels[0].where(is_valid, UNLABELLED)
    ours = build_optimizer(tuned, OptimConfig(encoder_rate=0.0, weight_decay=0.1))
    theirs = torch.optim.AdamW(frozen.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    for step in range(3):
        set_learning_rate(ours, step, 10**9, OptimConfig(lr=1e-3, warmup=0.0))
        outputs = frozen(padded, is_valid)
        found, is_frame = tuned.outputs(batch)
        assert torch.equal(is_frame, is_valid)
        select = is_valid if head.answers == "frame_classes" else slice(None)
        torch.testing.assert_close(found[select], outputs[select], rtol=1e-5, atol=1e-5)
        loss, wanted = tuned(batch, StepContext(step=step)), head.loss(outputs, answers, weights_of(config))
        (loss.value / loss.count).backward()
        (wanted.value / wanted.count).backward()
        torch.testing.assert_close(loss.value / loss.count, wanted.value / wanted.count, rtol=1e-5, atol=1e-6)
        for name, parameter in frozen.named_parameters():
            torch.testing.assert_close(tuned.network.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in frozen.named_parameters():
        torch.testing.assert_close(tuned.network.get_parameter(name), parameter, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], each) for name, each in tuned.encoder.state_dict().items())


def test_adapters_learn_and_the_weights_under_them_do_not():
    config = CONFIGS[0]
    encoder = trunk()
    before = {name: each.clone() for name, each in encoder.state_dict().items()}
    tuned = built(config, encoder, lora=LoraConfig(rank=2)).train()
    learning = {name for name, each in tuned.named_parameters() if each.requires_grad}
    assert {name.rpartition(".")[2] for name in learning if name.startswith("encoder.")} == {"up", "down"}
    optimizer = build_optimizer(tuned, OptimConfig())
    for step in range(3):
        set_learning_rate(optimizer, step, 100, OptimConfig(lr=0.01))
        tuned(batch_of(config), StepContext(step=step)).value.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = tuned.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(bool(after[name].any()) for name in after if name.endswith(".up"))


def test_the_encoder_learns_only_after_the_steps_that_it_stays_frozen():
    config = CONFIGS[0]
    tuned = built(config, trunk(), freeze_steps=2).train()
    assert tuned.thaws
    for step, learns in ((1, False), (2, True)):
        tuned.zero_grad()
        tuned(batch_of(config), StepContext(step=step)).value.backward()
        assert all(each.grad is not None for each in tuned.network.parameters())
        assert any(each.grad is not None for each in tuned.encoder.transformer.parameters()) == learns
    assert not any(each.requires_grad for each in tuned.encoder.conv.parameters())


@pytest.mark.parametrize(("norm", "layers"), [("post", (0, 1)), ("pre", (0, 1)), ("post", (0,)), ("pre", (1, 2))])
def test_every_parameter_that_may_learn_gets_a_gradient(norm, layers):
    """Otherwise ranks would wait for the gradients of layers that none of them runs."""
    config = CONFIGS[0]
    torch.manual_seed(0)
    network = head_of(config).network(config, HeadSizes(layers=len(layers), dim=8, outputs=CLASSES))
    encoder = trunk(norm)
    encoder.config = EncoderConfig(**{**vars(encoder.config), "conv_grad_scale": 1.0})
    tuned = HeadModel(encoder, network, head_of(config), layers=layers, freeze_conv=False).train()
    tuned(batch_of(config), StepContext()).value.backward()
    assert all((each.grad is not None) == each.requires_grad for each in tuned.parameters())
    assert tuned.encoder.transformer.layers[0].expand.weight.requires_grad == (max(layers) > 0)


def test_adapters_need_a_layer():
    network = head_of(CONFIGS[0]).network(CONFIGS[0], HeadSizes(layers=1, dim=8, outputs=CLASSES))
    with pytest.raises(ConfigError, match=r"layers=\[0\] sums no layer, and adapters are in layers; name more"):
        HeadModel(trunk(), network, head_of(CONFIGS[0]), layers=(0,), lora=LoraConfig())


def test_weights_of_classes_count_as_one_prediction_or_more():
    """The loop divides by the sum of counts, and takes less than one for a step without audio."""
    config = UtteranceClassesConfig(column="speaker", projector=0, class_weights="balanced")
    tuned = built(config, trunk())
    assert float(tuned.class_weights.min()) == 1.0
    torch.testing.assert_close(tuned.class_weights, torch.tensor([1.0, 5.0, 5 / 3]))
    assert "class_weights" not in tuned.state_dict()
    assert float(tuned(batch_of(config), StepContext()).count) == pytest.approx(1 + 5 + 5 / 3)


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[2]], ids=["targets", "labels"])
def test_a_batch_without_answers_is_refused(config):
    batch = Batch(ids=("a",), waveforms=noise(1, 1600, seed=1), num_samples=torch.tensor([1600]))
    with pytest.raises(ValueError, match=r"a batch without .* cannot be scored"):
        built(config, trunk())(batch, StepContext())
