"""Scripts of recipes/quality_per_compute: what an arm costs and tells, the peer's training, what is drawn of both."""

import importlib
import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.manifest import read_manifest
from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.model.encoder import SpeechEncoder
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.train.checkpoint import load_tensors
from speechssl.units.phone_alignments import Interval

FOLDER = Path(__file__).parents[1] / "recipes" / "quality_per_compute"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_a_budget_pays_for_updates_in_twelves_without_what_was_spent_before(script):
    plan = script("cost").plan(1.0, (10, 7.0), (60, 32.0), 12.0)  # 0.5 s an update and 2 s to start
    assert (plan["cpu_s_per_update"], plan["updates"]) == (0.5, 96)


@pytest.mark.parametrize(("long", "before"), [((60, 6.0), 0.0), ((60, 32.0), 59.0)])
def test_a_budget_that_pays_for_nothing_is_refused(script, long, before):
    with pytest.raises(ValueError, match=r"measure again|do not pay"):
        script("cost").plan(1.0, (10, 7.0), long, before)


def test_a_command_that_fails_is_noted_with_its_time(script, tmp_path):
    cost = script("cost")
    burn = "import time\nwhile time.process_time() < 0.3: pass\nraise SystemExit(3)"
    assert cost.run(tmp_path / "cost.jsonl", "first", [sys.executable, "-c", burn]) == 3
    assert cost.run(tmp_path / "cost.jsonl", "second", [sys.executable, "-c", ""]) == 0
    first = cost.spent(tmp_path / "cost.jsonl", "first")["cpu_s"]
    assert first == pytest.approx(0.3, abs=0.2) and first > 0.27  # the clock of a process ticks in hundredths
    assert cost.spent(tmp_path / "cost.jsonl")["cpu_s"] > first
    assert cost.spent(tmp_path / "none.jsonl") == {"cpu_s": 0, "wall_s": 0}


def test_the_number_of_updates_is_settled_once(script, tmp_path, monkeypatch, capsys):
    cost = script("cost")
    for name, seconds in (("short", 7.0), ("long", 32.0)):
        (tmp_path / name).write_text(json.dumps({"name": "measure", "cpu_s": seconds, "wall_s": 9.0}) + "\n")
    arguments = ["--short", "10", str(tmp_path / "short"), "--long", "60", str(tmp_path / "long")]
    for minutes in ("1", "100"):
        monkeypatch.setattr(sys, "argv", ["", "updates", str(tmp_path / "out.json"), "--minutes", minutes, *arguments])
        assert cost.main() == 0
        assert capsys.readouterr().out == "120\n"


def test_a_given_number_of_updates_is_written_down_unmeasured(script, tmp_path, monkeypatch, capsys):
    cost = script("cost")
    (tmp_path / "units").write_text(json.dumps({"name": "units", "cpu_s": 7.0, "wall_s": 9.0}) + "\n")
    arguments = ["--minutes", "1", "--count", "24", "--spent", str(tmp_path / "units")]
    monkeypatch.setattr(sys, "argv", ["", "updates", str(tmp_path / "out.json"), *arguments])
    assert cost.main() == 0
    assert capsys.readouterr().out == "24\n"
    assert json.loads((tmp_path / "out.json").read_text())["spent_before_wall_s"] == 9.0
    with pytest.raises(ValueError, match="multiple of 12"):
        cost.given_count(25, 1.0, 0.0)


@pytest.mark.parity
def test_the_peers_run_that_was_interrupted_equals_one_that_was_not(script, tmp_path, make_corpus, monkeypatch):
    peer = script("transformers_arm")
    size = {"conv_dim": [8, 8], "conv_kernel": [20, 4], "conv_stride": [20, 16], "hidden_size": 16}
    size |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_conv_pos_embeddings": 4}
    size |= {"num_conv_pos_embedding_groups": 2, "codevector_dim": 8, "proj_codevector_dim": 8}
    arm = peer.Arm(settings=peer.FORM | size, min_s=0.5, max_s=0.8, lr=0.01)
    manifest = (make_corpus(tmp_path / "corpus", range(7_000, 17_000, 1_000)),)
    whole = peer.train(arm, manifest, tmp_path / "whole", steps=6, saves=2, seed=1)
    assert 6 * 6 * 0.5 < whole.audio_seconds < 6 * 8 * 0.8
    save, interrupted = peer.save, []

    def stop_after_saving(out, model, optimizer, pool, state):
        save(out, model, optimizer, pool, state)
        interrupted.append(state.step)
        raise KeyboardInterrupt

    monkeypatch.setattr(peer, "save", stop_after_saving)
    with pytest.raises(KeyboardInterrupt):
        peer.train(arm, manifest, tmp_path / "parts", steps=6, saves=2, seed=1)
    monkeypatch.setattr(peer, "save", save)
    peer.train(arm, manifest, tmp_path / "parts", steps=6, saves=2, seed=1)
    one, other = (load_tensors(tmp_path / name / "step_00000006/model.safetensors") for name in ("whole", "parts"))
    before = load_tensors(tmp_path / "parts/step_00000003/model.safetensors")
    assert interrupted == [3]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], before[name]) for name in one)
    assert not (tmp_path / "parts/step_00000003/optimizer.pt").exists(), "kept for the newest alone"


def test_the_peers_rate_goes_up_and_down_linearly(script):
    peer = script("transformers_arm")
    rates = [peer.learning_rate(step, 100, 1.0) for step in (0, 8, 16, 58, 100)]
    assert rates == [0.0, 0.5, 1.0, 0.5, 0.0]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Give what run.sh leaves of one arm: 12 updates, two fine-tunings of the last and one of half of the way."""
    arm = tmp_path / "seed3" / "wav2vec2"
    plan = {"updates": 12, "spent_before_s": 60.0, "spent_before_wall_s": 120.0}
    files = {"pretrain.json": plan, "cost.jsonl": {"name": "pretrain", "cpu_s": 240.0, "wall_s": 480.0}}
    files |= {f"pretrain/step_{step:08d}/state.json": {"audio_seconds": 600.0 * step} for step in (6, 12)}
    for name, dev, test in (("full-frozen", 0.5, 0.3), ("full-trained", 0.4, 0.6), ("half-frozen", 0.7, 0.8)):
        files[f"asr-{name}/step_00000001/state.json"] = {"best_score": dev}
        files[f"asr-{name}/test.json"] = {"cer": test}
    for name, content in files.items():
        (arm / name).parent.mkdir(parents=True, exist_ok=True)
        (arm / name).write_text(json.dumps(content) + "\n")
    return tmp_path


def test_the_table_takes_the_fine_tuning_that_dev_prefers_and_half_the_cost_half_way(script, top):
    draw = script("draw")
    full, half = draw.points(top)
    assert (full.hours_seen, full.cpu_minutes, full.wall_minutes) == (2.0, 5.0, 10.0)
    assert (half.hours_seen, half.cpu_minutes, half.wall_minutes) == (1.0, 3.0, 6.0)
    rows = draw.table([half, full]).splitlines()[2:]
    assert rows[0] == "| wav2vec2 | 3 | 12 | 2.00 | 5.0 | 10.0 | 60.0 % trained (30.0 % frozen) | 40.0 % |"
    assert rows[1] == "| wav2vec2, half | 3 | 6 | 1.00 | 3.0 | 6.0 | 80.0 % frozen | 70.0 % |"


def test_the_picture_is_a_png(script, top):
    draw = script("draw")
    draw.draw(list(draw.points(top)), top / "quality.png")
    assert (top / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_information_of_labellings_is_that_of_their_counts(script):
    phones = script("phones")
    generator = torch.Generator().manual_seed(0)
    even = torch.arange(400) % 4
    assert phones.information(even, even) == pytest.approx(math.log(4))
    assert phones.information(even, even // 2) == pytest.approx(math.log(2))
    assert phones.information(even, torch.arange(400) // 4 % 5) == pytest.approx(0.0, abs=1e-12)  # each pair 20 times
    first, second = (torch.randint(5, (300,), generator=generator) for _ in range(2))
    pairs = Counter(zip(first.tolist(), second.tolist(), strict=True))
    ones, twos = Counter(first.tolist()), Counter(second.tolist())
    slow = sum(n / 300 * math.log(300 * n / (ones[one] * twos[two])) for (one, two), n in pairs.items())
    assert phones.information(first, second) == pytest.approx(slow)


def test_a_linear_classifier_reads_what_is_linear_and_nothing_else(script):
    phones = script("phones")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (900,), generator=generator)
    noise = torch.randn(900, 8, generator=generator)
    told = noise + 20 * torch.nn.functional.one_hot(labels, 8)
    assert phones.linear_accuracy(told[:600], labels[:600], told[600:], labels[600:]) == 1.0
    assert phones.linear_accuracy(noise[:600], labels[:600], noise[600:], labels[600:]) < 0.5


def test_frames_take_the_phone_at_their_centre_and_the_loudness_of_what_they_see(
    script, tmp_path, make_corpus, tiny_encoder
):
    module, audio = script("phones"), AudioConfig()
    manifest = read_manifest(make_corpus(tmp_path, [8_000, 9_000]))
    ends = {row.id: [(0.1, "a"), (0.25, "b"), (0.4, "a")] for row in manifest.utterances}  # a gap before the first
    intervals = {key: [Interval(end - 0.05, end, phone) for end, phone in each] for key, each in ends.items()}
    encoder = SpeechEncoder(tiny_encoder).eval()
    frames = module.frames_of(encoder, tmp_path / "manifest.tsv", intervals, ["a", "b"], audio)
    expected, loudness = [], []
    for row in manifest.utterances:
        waveform = read_audio(manifest.audio_path(row), audio)
        for frame in range((len(waveform) - tiny_encoder.window) // tiny_encoder.hop + 1):
            seen = waveform[frame * tiny_encoder.hop :][: tiny_encoder.window]
            centre = (frame * tiny_encoder.hop + tiny_encoder.window / 2) / 16_000
            inside = [each for each in intervals[row.id] if each.start_s <= centre < each.end_s]
            if inside:
                expected.append("ab".index(inside[0].phone))
                loudness.append(float(seen.square().mean()))
    assert set(expected) == {0, 1}
    assert frames.phones.tolist() == expected
    assert frames.loudness.tolist() == pytest.approx(loudness)
    assert [len(layer) for layer in frames.layers] == [len(expected)] * (1 + tiny_encoder.transformer.num_layers)


@pytest.mark.parametrize("random", [False, True])
def test_a_line_tells_of_a_model_and_of_its_codes_where_it_has_some(
    script, tmp_path, make_corpus, tiny_encoder, random
):
    description = Description(encoder=tiny_encoder, objective=ContrastiveConfig())
    model = build_model(description)
    SavedModel(name="here", description=description, tensors=model.state_dict()).write(tmp_path / "model")
    manifest = make_corpus(tmp_path / "corpus")
    for split in ("train", "dev"):
        shutil.copy(manifest, manifest.with_name(f"{split}.tsv"))
    rows = "".join(f"{row.id}\t0.1:a 0.3:b 0.5:a\n" for row in read_manifest(manifest).utterances)
    manifest.with_name("phones.tsv").write_text(f"id\tphones\n{rows}")
    line = script("phones").look(tmp_path / "model", manifest.parent, random=random)
    found = re.search(r"by layer ([\d. ]+) %", line)
    assert found
    shares = [float(share) for share in found[1].split()]
    assert len(shares) == 3 and all(50 < share <= 100 for share in shares)  # scored on what it learned from
    assert ("of loudness" in line) != random and line.startswith("random, as ") == random
