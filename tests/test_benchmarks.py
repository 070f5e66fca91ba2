"""Scripts of recipes/benchmarks: turns, ratios, table, batches, the count of operations; and the ratios themselves."""

import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from speechssl.data.batching import Batch
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.train.optim import OptimConfig

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def tiny(script: Callable[[str], ModuleType], tiny_encoder: EncoderConfig):
    encoder = dataclasses.replace(
        tiny_encoder, transformer=dataclasses.replace(tiny_encoder.transformer, layer_drop=0.0)
    )
    return script("sizes").Size(
        name="tiny",
        encoder=encoder,
        contrastive=ContrastiveConfig(dim=8, negatives=6, quantizer=QuantizerConfig(entries=5, dim=12)),
        masked_prediction=MaskedPredictionConfig(dim=8),
        clusters=(7, 9),
        optim=OptimConfig(),
        ctc_encoder=encoder,
        ctc=CTCConfig(freeze_steps=0),
        ctc_optim=OptimConfig(),
        utterances=3,
        seconds=0.5,
        turns=1,
    )


def make_row(script, contender: str, walls: Sequence[float], *, audio_s: float = 20.0, task: str = "hubert"):
    return script("measuring").Row(
        size="base",
        task=task,
        batch="equal",
        contender=contender,
        wall_s=sorted(walls)[len(walls) // 2],
        cpu_s=1.0,
        audio_s=audio_s,
        walls=tuple(walls),
        cpus=(1.0,) * len(walls),
        parameters=95_000_000,
        loss=4.5,
        predicted=480,
    )


def test_contenders_take_turns_and_another_one_begins_each_repeat(script):
    measuring = script("measuring")
    order: list[str] = []

    def turn_of(name: str) -> Callable[[], object]:
        return lambda: order.append(name) or measuring.Outcome(loss=1.0, predicted=1, audio_s=1.0)

    timings = measuring.interleave({name: turn_of(name) for name in "abc"}, repeats=3, warm_up=1)
    assert ["".join(order[i : i + 3]) for i in range(0, 12, 3)] == ["cab", "abc", "bca", "cab"]
    assert {name: len(found) for name, found in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_loss_that_is_not_finite_stops_the_measurement(script):
    measuring = script("measuring")
    bad = measuring.Outcome(loss=float("nan"), predicted=1, audio_s=1.0)
    with pytest.raises(ValueError, match="peer: the loss is nan"):
        measuring.interleave({"peer": lambda: bad}, repeats=1)


def test_a_ratio_is_the_median_over_repeats_of_audio_in_a_second(script):
    ours = make_row(script, "speechssl", [1.0, 2.0, 1.0])
    rows = [ours, make_row(script, "peer", [2.0, 8.0, 3.0], audio_s=10.0), make_row(script, "x", [1.0] * 3, task="ctc")]
    assert script("measuring").ratios(rows) == {"base hubert equal: peer": 6.0}  # of 4, 8 and 6


def test_the_table_has_a_line_for_every_row_and_the_ratio_beside_the_peer(script):
    rows = [make_row(script, "speechssl", [1.0]), make_row(script, "peer", [2.5])]
    lines = script("measuring").table(rows).splitlines()
    assert len(lines) == 4
    assert "| peer | 2.5 | 1 | 8 | 2.50 | 1.00 |" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_a_ratio_has_fallen_from_fifteen_percent_on(script):
    short = script("short")
    committed = {"a": 2.0, "b": 2.0, "not measured": 9.0}
    assert short.fallen({"a": 1.71, "b": 1.69, "new": 0.1}, committed) == ["b"]


def test_only_a_ratio_that_fell_in_both_runs_counts(script):
    fallen_twice = script("short").fallen_twice
    committed = {"a": 2.0, "b": 2.0}
    assert fallen_twice({"a": 1.0, "b": 1.0}, {"a": 1.9, "b": 1.5}, committed) == ["b"]
    assert fallen_twice({"a": 1.9, "b": 1.9}, None, committed) == []


def test_the_table_of_ratios_says_what_is_met_and_what_fell(script):
    short = script("short")
    key = "base hubert equal: torchaudio"
    found = {key: 2.5, "small ctc equal: plain modules": 1.4, "of no target": 1.0}
    lines = short.ratio_table(found, short.Committed("arm", {**found, key: 3.5}, {})).splitlines()[2:]
    assert lines[0] == f"| {key} | 2.50 | 1.3 | met | 3.50 | fallen |"
    assert lines[1].endswith("| 1.40 | 1.5 | not met | 1.40 |  |")
    assert lines[2].endswith("| 1.00 |  |  | 1.00 |  |")


def test_the_table_names_the_family_and_the_rows_that_were_never_measured_on_it(script, tmp_path):
    short = script("short")
    path = tmp_path / "measured.json"
    families = {"intel-amx": {"ratios": {"a": 2.0}}, "amd-avx512": {"ratios": {"a": 3.0, "b": 1.5, "c": 1.0}}}
    path.write_text(json.dumps({"families": families}), encoding="utf-8")
    lines = short.ratio_table({"a": 1.9, "b": 1.2, "new": 1.0}, short.read_committed(path, "intel-amx")).splitlines()
    assert "| committed, intel-amx |" in lines[0]
    assert lines[2:5] == [
        "| a | 1.90 |  |  | 2.00 |  |",
        "| b | 1.20 |  |  | never (1.50 on amd-avx512) |  |",
        "| new | 1.00 |  |  | never |  |",
    ]
    assert lines[-1].startswith("Never measured on intel-amx, nor now: ") and lines[-1].endswith(", c.")


def test_ratios_of_another_family_are_not_compared_with(script, tmp_path):
    short = script("short")
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"families": {"amd-avx512": {"ratios": {"a": 3.0}}}}), encoding="utf-8")
    assert short.read_committed(path, "arm").ratios == {}
    assert short.read_committed(tmp_path / "none.json", "arm").ratios == {}
    assert short.fallen({"a": 1.0}, short.read_committed(path, "amd-avx512").ratios) == ["a"]


@pytest.mark.parametrize(
    ("vendor", "flags", "family"),
    [
        ("GenuineIntel", "avx2 fma avx512f avx512_bf16 avx512_vnni amx_tile amx_bf16 amx_int8", "intel-amx"),
        ("GenuineIntel", "avx2 fma avx512f avx512_bf16", "intel-avx512-bf16"),
        ("GenuineIntel", "avx2 fma avx512f avx512_vnni", "intel-avx512"),
        ("AuthenticAMD", "avx2 fma avx512f avx512_bf16 avx512_vnni", "amd-avx512-bf16"),
        ("AuthenticAMD", "avx2 fma", "amd-avx2"),
        ("HygonGenuine", "avx2 fma", "x86-avx2"),
    ],
)
def test_a_family_is_a_vendor_and_its_instructions(script, vendor, flags, family):
    cpuinfo = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: X: 2.0 GHz\nflags\t\t: fpu {flags}\n\n"
    family_of = script("measuring").family_of
    assert family_of(cpuinfo + cpuinfo, {"HOME": "/root"}) == family
    restricted = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "SPEECHSSL_KERNELS": ""}
    assert family_of(cpuinfo, restricted) == f"{family}, ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2"


def test_families_of_arm_and_of_machines_without_cpuinfo_have_names_too(script, monkeypatch):
    family_of = script("measuring").family_of
    assert family_of("Features\t: fp asimd i8mm bf16\n", {}) == "arm-i8mm"
    assert family_of("Features\t: fp asimd\n", {}) == "arm"
    monkeypatch.setattr(script("measuring").platform, "machine", lambda: "arm64")
    assert family_of("", {}) == "arm64"
    assert family_of("vendor_id : GenuineIntel\nflags : sse2\n", {}) == "arm64"


def test_the_short_form_of_every_file_is_run_and_real_speech_only_where_it_is_given(script, monkeypatch):
    short = script("short")
    commands = []

    def run(command: list[str], check: bool) -> None:
        commands.append(command)
        Path(command[-1]).write_text(json.dumps({"ratios": {Path(command[1]).name: 2.0}}), encoding="utf-8")

    monkeypatch.setattr(short.subprocess, "run", run)
    assert short.run_short().ratios == {"pretraining.py": 2.0}
    assert "--manifest" not in commands[0]
    files = ("pretraining.py", "kmeans.py", "data.py", "asr.py", "precisions.py")
    assert short.run_short([Path("pool.tsv")]).ratios == dict.fromkeys(files, 2.0)
    assert all("pool.tsv" in command for command in commands[1:])
    assert short.run_short([Path("pool.tsv")], only=["asr"]).ratios == {"asr.py": 2.0}
    assert {*short.NAMES} == {Path(file).stem for file in files}
    commands.clear()
    short.run_short([Path("pool.tsv")], only=["precisions"], model=Path("run"))
    assert ["--model" in command for command in commands] == [False, True]


def test_committed_ratios_are_the_lower_of_two_runs_and_the_others_stay(script, tmp_path):
    path = tmp_path / "measured.json"
    before = {"arm": {"ratios": {"a": 2.0, "b": 3.0}, "measurements": []}}
    path.write_text(json.dumps({"families": before}), encoding="utf-8")
    facts = {"commit": "abc", "family": "arm"}
    script("short").commit_ratios([{"a": 1.5, "c": 1.0}, {"a": 1.6, "c": 0.9}], path, facts)
    script("short").commit_ratios([{"a": 1.0}], path, {**facts, "family": "amd-avx2"})
    kept = json.loads(path.read_text(encoding="utf-8"))["families"]
    assert kept["arm"]["ratios"] == {"a": 1.5, "b": 3.0, "c": 0.9}
    assert kept["arm"]["measurements"] == [{**facts, "runs": 2, "ratios": ["a", "c"]}]
    assert kept["amd-avx2"]["ratios"] == {"a": 1.0}


def test_reports_of_single_scripts_are_committed_under_their_family(script, tmp_path):
    measuring, short = script("measuring"), script("short")
    rows = [make_row(script, "speechssl", [1.0]), make_row(script, "peer", [2.5])]
    measuring.write_report(tmp_path / "report.json", measuring.about(0), rows)
    (tmp_path / "measured.json").write_text('{"families": {}}', encoding="utf-8")
    short.commit_reports([tmp_path / "report.json"], tmp_path / "measured.json")
    ((family, told),) = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))["families"].items()
    assert family == measuring.about(0)["family"]
    assert told["ratios"] == {"base hubert equal: peer": 2.5}
    assert told["measurements"][0].keys() == {*short.FACTS, "runs", "ratios"}


def test_every_committed_ratio_has_a_processor_a_commit_and_a_date(script):
    for told in json.loads(script("short").MEASURED.read_text(encoding="utf-8"))["families"].values():
        assert told["ratios"].keys() == {key for each in told["measurements"] for key in each["ratios"]}
        assert all(each["machine"] and each["commit"] and each["date"] for each in told["measurements"])


def test_tables_say_what_is_not_installed(script):
    left_out = {"decode lexicon and 4-gram beam 50: torchaudio": "flashlight-text, kenlm"}
    short = script("short")
    line = short.ratio_table({}, short.Committed("arm", {}, {}), left_out).splitlines()[2]
    assert line == (
        "| decode lexicon and 4-gram beam 50: torchaudio | not installed: flashlight-text, kenlm | 1.0 | |  | |"
    )
    lines = script("measuring").table([make_row(script, "speechssl", [1.0])], left_out).splitlines()
    assert lines[-1].startswith("| decode lexicon and 4-gram beam 50 | torchaudio | not installed: flashlight-text")
    assert len({line.count("|") for line in lines}) == 1


def make_utterances(lengths_s: Sequence[float]) -> list[Utterance]:
    return [
        Utterance(id=f"u{i}", path=f"u{i}.wav", num_samples=int(length * 16_000), sample_rate=16_000, channels=1)
        for i, length in enumerate(lengths_s)
    ]


def test_buckets_hold_similar_lengths_cropped_to_the_shortest_and_no_more_than_a_batch(script):
    lengths = torch.empty(500).uniform_(2, 20, generator=torch.Generator().manual_seed(0)).tolist()
    utterances = make_utterances(lengths)
    batches = script("batches").length_buckets(utterances, 60.0, is_whole=False, seed=0)
    assert len(batches) > 30
    kept = sum(crop.num_samples for batch in batches for crop in batch)
    real = sum(min(utterances[crop.index].num_samples, 15 * 16_000) for batch in batches for crop in batch)
    assert kept > 0.85 * real
    for batch in batches:
        assert len({crop.num_samples for crop in batch}) == 1
        assert len(batch) * batch[0].num_samples <= 60 * 16_000
        assert len(batch) <= 8 or len(batch) % 8 == 0


def test_random_batches_hold_a_fixed_number_that_lasts_a_batch_on_average(script):
    utterances = make_utterances([2.0, 4.0] * 100)
    batches = script("batches").random_batches(utterances, 60.0, seed=0)
    assert [len(batch) for batch in batches] == [20] * 10
    assert len({crop.index for batch in batches for crop in batch}) == 200


def tiny_batch(script, size) -> Batch:
    return script("sizes").equal_batch(size, seed=0)


def with_positions(size, **changes: int):
    """Change the positional convolution of a size."""
    transformer = dataclasses.replace(size.encoder.transformer, **changes)
    encoder = dataclasses.replace(size.encoder, transformer=transformer)
    return dataclasses.replace(size, encoder=encoder, ctc_encoder=encoder)


@pytest.mark.parametrize("task", ["wav2vec2", "hubert", "ctc"])
def test_counted_operations_are_those_of_the_plain_model(script, tiny, task):
    # torch counts gradients of grouped weights as if there were no groups; an even kernel makes one frame too many
    tiny = with_positions(tiny, position_kernel=7, position_groups=1)
    learner = script("plain").PLAIN[task](tiny)
    batch = tiny_batch(script, tiny)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss, predicted = learner.score(batch)
        loss.backward()
    products = script("bound").step_products(tiny, task, batch, predicted)
    expected = sum(product.flops for product in products)
    if task == "wav2vec2":  # which multiplies by one-hot vectors, and does not take similarities by products
        codebook, similarity = products[-4], products[-1]
        expected += 2 * codebook.flops - similarity.flops
    assert counter.get_total_flops() == expected


def test_counted_operations_of_grouped_positions_are_those_of_the_plain_model(script, tiny):
    tiny = with_positions(tiny, position_kernel=7)
    batch = tiny_batch(script, tiny)
    encoder = script("plain").PlainEncoder(tiny.encoder)  # in training, as its fused forward pass is not counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(batch)
    products = script("bound").step_products(tiny, "extract", batch, 0)
    assert tiny.encoder.transformer.position_groups > 1
    assert counter.get_total_flops() == sum(product.flops for product in products)


def test_a_forward_pass_has_a_third_of_the_operations_but_for_the_waveform(script, tiny):
    bound = script("bound")
    batch = tiny_batch(script, tiny)
    forward = bound.flops_by_part(bound.step_products(tiny, "extract", batch, 0))
    step = bound.flops_by_part(bound.step_products(tiny, "hubert", batch, 10))
    assert step["extractor 0"] == 2 * forward["extractor 0"]
    for part in forward.keys() - {"extractor 0"}:
        assert step[part] == 3 * forward[part]


def test_products_take_their_operations_at_the_rate_of_their_shape(script):
    bound = script("bound")
    product = bound.Product("x", 4, 5, 6, batch=2, times=3.0, has_right_gradient=False)
    rates = {(2, 4, 5, 6): 10.0, (2, 4, 6, 5): 20.0}
    assert bound.bound_s([product], rates) == {"x": pytest.approx(3 * 480 / 10 + 3 * 480 / 20)}
    assert set(bound.measure_rates([product], repeats=1)) == rates.keys()


@pytest.mark.parametrize("task", ["wav2vec2", "hubert", "ctc"])
def test_our_step_is_taken_apart_whole(script, tiny, task):
    parts, predicted = script("parts").seconds_by_part(tiny, task, tiny_batch(script, tiny), 1)
    assert {"extractor", "positions", "attention", "feed-forward", "heads", "optimiser"} <= parts.keys()
    assert all(seconds > 0 for seconds in parts.values())
    assert predicted > 0


@pytest.mark.parametrize("task", ["wav2vec2", "hubert", "ctc"])
def test_ours_and_plain_modules_do_comparable_work(script, tiny, task):
    batch = tiny_batch(script, tiny)
    ours, plain = script("ours").our_learner(tiny, task), script("plain").PLAIN[task](tiny)
    sizes = [sum(parameter.numel() for parameter in each.model.parameters()) for each in (ours, plain)]
    assert sizes[0] == sizes[1]
    outcomes = [[each(batch) for _ in range(20)] for each in (ours, plain)]
    masked = [sum(outcome.predicted for outcome in found) for found in outcomes]
    assert masked[0] == pytest.approx(masked[1], rel=0.1)


def test_the_equal_batch_has_labels_of_every_frame(script, tiny):
    batch = tiny_batch(script, tiny)
    frames = frame_count(batch.waveforms.shape[1], tiny.encoder.conv)
    assert batch.labels.shape == (2, 3, frames)
    assert batch.duration_s == pytest.approx(1.5)


def test_a_process_that_cannot_be_measured_says_why(script):
    with pytest.raises(RuntimeError, match=r"(?s)memory\.py small ctc equal nobody.*KeyError: 'nobody'"):
        script("memory").peak_mib("small", "ctc", "equal", "nobody")


@pytest.mark.slow
def test_no_ratio_fell_below_the_committed_one_in_two_runs(script):
    short = script("short")
    family = str(script("measuring").about(0)["family"])
    committed = short.read_committed(short.MEASURED, family).ratios
    if not committed:
        pytest.skip(f"nothing was ever measured on {family}; short.py --write commits what is found here")
    speech = Path(os.environ.get("BENCH_MANIFEST", FOLDER.parents[1] / "runs/demo/festvox-ru/pool.tsv"))
    manifests = [speech] if speech.exists() else []  # the file that `make bench` takes
    first = short.run_short(manifests).ratios
    assert first.keys() & committed.keys()
    second = short.run_short(manifests).ratios if short.fallen(first, committed) else None
    assert short.fallen_twice(first, second, committed) == []


def test_planning_is_measured_from_the_import_to_a_jump(script, tmp_path):
    pytest.importorskip("pyarrow", reason="the extra `parquet`")
    planning = script("planning")
    planning.generate(tmp_path / "rows.parquet", 3_000)
    turn = planning.plan(tmp_path / "rows.parquet")
    assert set(turn["steps"]) == set(planning.STEPS)
    found = planning.figures([turn, turn])
    steps = [turn["steps"][step] for step in planning.STEPS[:5]]
    assert found["to the first batch"]["wall_s"] == pytest.approx(sum(wall for wall, _ in steps), abs=1e-3)
    assert found["to the first batch"]["cpu_s"] == pytest.approx(sum(cpu for _, cpu in steps), abs=1e-3)
    assert set(planning.LIMITS) <= set(found)


def test_padding_is_given_for_crops_and_for_whole_utterances(script, tmp_path, make_utterances):
    folder = tmp_path / "corpus"
    write_manifest(folder / "pool.tsv", make_utterances([16_000, 80_000]))
    found = script("planning").padding([folder / "pool.tsv"], 60.0)
    assert found == {
        "corpus/pool": {
            "hours": pytest.approx(6 / 3600),
            "cropped": pytest.approx(0.4),
            "whole": pytest.approx(0.4),
        }
    }
