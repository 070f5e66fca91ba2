"""Self-training: speechssl.stages.selftrain and its parts."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import soundfile
import yaml

from speechssl.asr.decoding.decoders import Greedy
from speechssl.cli.stages_commands import selftrain_command
from speechssl.config import load
from speechssl.corpus.check.checking import check_manifests
from speechssl.data.manifest import read_manifest, read_table, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import CheckpointError, ConfigError, ManifestError
from speechssl.hub.saved import SavedModel
from speechssl.stages import selftrain as stage
from speechssl.stages import selftrain_data
from speechssl.stages.pseudo_labels import select
from speechssl.stages.scored import Scored, transcribe_scored
from speechssl.stages.selftrain import SelftrainConfig, selftrain
from speechssl.stages.selftrain_recipe import KeepConfig, training
from speechssl.stages.selftrain_report import Round, warnings_of
from speechssl.stages.synthetic_effect import differences

Make = Callable[..., SelftrainConfig]
SETS = {  # texts, and seeds of the audio
    "labelled": (["one two", "two", "six two one", "ten two"], range(4)),
    "pool": ([None, None, None, "never read", None, None], range(2, 8)),  # the first two are labelled
    "dev": (["one", "ten ten", "six"], range(20, 23)),
    "test": (["six six", "two ten"], range(30, 32)),
}


@pytest.fixture(autouse=True)
def _no_worker_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a few files takes less time than the start of its processes."""

    def in_this_process(recordings, measure):
        return enumerate(map(measure, recordings))

    monkeypatch.setattr(selftrain_data, "check_manifests", partial(check_manifests, by=in_this_process))


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory, write_wav) -> Path:
    """Give a folder with a manifest of each set."""
    folder = tmp_path_factory.mktemp("sets")
    for name, (texts, seeds) in SETS.items():
        rows = []
        for text, seed in zip(texts, seeds, strict=True):
            num_samples = 9000 + 500 * seed
            write_wav(folder / f"{name}/u{seed}.wav", num_samples, seed=100 * seed)
            one = Utterance(
                id=f"u{seed}", path=f"{name}/u{seed}.wav", num_samples=num_samples, sample_rate=16_000, channels=1
            )
            rows.append(dataclasses.replace(one, text=text))
        write_manifest(folder / f"{name}.tsv", rows)
    return folder


@pytest.fixture
def make(sets: Path, pretrained: Path, tmp_path: Path) -> Make:
    """Give a function that reads a recipe with its changes, then overrides of the command line."""

    def read(*overrides: str, **changes: object) -> SelftrainConfig:
        training = {"steps": 3, "log_every": 1, "eval_every": 1, "save_every": 1}
        values = {
            "out": str(tmp_path / "run"),
            "checkpoint": str(pretrained),
            **{name: {"manifests": [str(sets / f"{name}.tsv")]} for name in SETS},
            "finetune": {"train": training, "ctc": {"freeze_steps": 0}, "optim": {"lr": 1e-3}, "bad_length": "skip"},
            "keep": {"rate_margin": 1000.0, "loop_letters": 100},
            "rounds": 2,
            "min_gain": 0.0,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return load(path, SelftrainConfig, overrides)

    return read


@pytest.fixture
def performed(monkeypatch) -> list[str]:
    """Give a list that grows by the folder of each step that is really done."""
    names: list[str] = []
    for kind in ("prepare", "label", "finetune"):
        run = getattr(stage, kind)

        def spy(config, run=run):
            names.append(config.out.name)
            return run(config)

        monkeypatch.setattr(stage, kind, spy)
    return names


def content(out: Path) -> dict[str, bytes]:
    """Return the tables of a chain and the fingerprints of its models."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.tsv"))}
    models = sorted(out.glob("*-asr"))
    return found | {path.name: SavedModel.read(path).fingerprint().encode() for path in models}


def test_a_round_labels_the_pool_and_trains_on_both(make, performed, capsys):
    config = make()
    report = selftrain(config)
    assert "Mismatch of pool and labelled speech" in capsys.readouterr().err.partition("0-asr: started")[0]
    out = report.parent
    assert performed[:4] == ["0-data", "0-asr", "1-labels", "1-asr"]
    pseudo, labelled = read_manifest(out / "1-labels/pseudo.tsv"), read_manifest(out / "0-data/labelled.tsv")
    assert {row.id for row in pseudo.utterances} <= {"u4", "u5", "u6", "u7"}  # the first two are labelled
    assert all(row.text and row.text != "never read" for row in pseudo.utterances)
    assert all((pseudo.root / row.path).exists() for row in (*pseudo.utterances,))
    weights = {key: float(row["weight"]) for key, row in read_table(out / "1-labels/weights.tsv", ("id",)).items()}
    assert weights.keys() == {row.id for row in (*pseudo.utterances, *labelled.utterances)}
    assert all(weights[row.id] == 1 for row in labelled.utterances)
    assert all(0 <= weight <= 1 for weight in weights.values())
    used = json.loads((out / "1-asr/config.json").read_text())
    assert used["data"]["manifests"] == [str(out / "0-data/labelled.tsv"), str(out / "1-labels/pseudo.tsv")]
    assert SavedModel.read(out / "best").fingerprint() in {
        SavedModel.read(path).fingerprint() for path in out.glob("*-asr")
    }
    text = report.read_text()
    assert "never read" not in text
    assert "| 1: 1-asr |" in text
    assert "pool: 2 left out, audio of another set" in text


def test_the_same_command_skips_what_is_done(make, performed):
    selftrain(make())
    before = len(performed)
    out = selftrain(make()).parent
    assert len(performed) == before
    (out / "0-data/data.json").unlink()
    selftrain(make())
    assert performed[before:] == ["0-data"]  # made anew, from the same inputs


def test_a_chain_that_was_stopped_in_any_step_ends_with_the_same_files(make, monkeypatch, tmp_path):
    config = make("rounds=1")
    whole = content(selftrain(config).parent)
    for step, kind in {"0-data": "prepare", "0-asr": "finetune", "1-labels": "label", "1-asr": "finetune"}.items():
        stopped = dataclasses.replace(config, out=tmp_path / f"stopped-in-{step}")
        run = getattr(stage, kind)

        def killed(given, step=step, run=run):
            run(given)
            if given.out.name == step:  # all is written, but the record does not say so
                raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(stage, kind, killed)
            selftrain(stopped)
        assert content(selftrain(stopped).parent) == whole


def test_a_step_with_other_inputs_is_refused_and_with_redo_repeated(make, performed):
    selftrain(make("rounds=1"))
    with pytest.raises(CheckpointError, match=r"1-labels.*keep\.weighted was True, is False.*redo=true"):
        selftrain(make("rounds=1", "keep.weighted=false"))
    before = len(performed)
    out = selftrain(make("rounds=1", "keep.weighted=false", "redo=true")).parent
    assert performed[before:] == ["1-labels", "1-asr"]
    assert (out / "1-labels.old-1/pseudo.tsv").exists()
    weights = read_table(out / "1-labels/weights.tsv", ("id",))
    assert {row["weight"] for row in weights.values()} == {"1.000000"}


def test_the_mean_of_the_best_steps_is_the_teacher_where_dev_says_so(make, monkeypatch):
    monkeypatch.setattr(stage, "label", lambda config: pytest.fail(str(config.checkpoint)))
    config = make("finetune.average=2", "finetune.train.keep_best=2")
    with pytest.raises(pytest.fail.Exception, match="0-asr"):
        selftrain(config)
    scores = config.out / "0-asr/average/scores.json"
    found = json.loads(scores.read_text())
    scores.write_text(json.dumps(found | {"dev_cer": 0.0, "dev_wer": 0.25}))
    with pytest.raises(pytest.fail.Exception, match="0-asr/average"):
        selftrain(config)


def test_a_given_recogniser_makes_the_first_labels(make, finetuned, performed):
    out = selftrain(make("rounds=1", f"recogniser={finetuned}")).parent
    assert performed == ["0-data", "1-labels", "1-asr"]
    found = json.loads((out / "1-labels/labels.json").read_text())
    assert f"| 0: {finetuned} | {found['dev']['greedy_cer']:.1%} |" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint=nowhere", "nowhere: no such file or folder"),
        ("recogniser=nowhere", "nowhere: no such file or folder"),
        ("keep.second=nowhere", "nowhere: no such file or folder"),
        ("decode={kind: beam, lm: nowhere.arpa}", r"nowhere\.arpa: cannot be read"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_done(make, override, message, performed):
    with pytest.raises(CheckpointError, match=message):
        selftrain(make(override))
    assert performed == []


def test_a_label_that_is_too_long_for_later_rounds_is_told_before_the_first(make, performed):
    with pytest.raises(ManifestError, match=r"u3: lasts 0\.7 s, more than a batch \(batch\.seconds=0\.6\)"):
        selftrain(make("student={batch: {seconds: 0.6}}"))
    assert performed == ["0-data"]


@pytest.mark.parametrize("name", ["labelled", "dev"])
def test_a_label_without_text_is_told_before_a_given_recogniser_labels_the_pool(
    make, sets, finetuned, name, performed, tmp_path
):
    first, *others = read_manifest(sets / f"{name}.tsv").utterances
    write_manifest(tmp_path / f"{name}.tsv", [dataclasses.replace(first, text=None), *others], root=str(sets))
    with pytest.raises(ManifestError, match=f"1 utterances have no text: {first.id}"):
        selftrain(make(f"recogniser={finetuned}", **{name: {"manifests": [str(tmp_path / f"{name}.tsv")]}}))
    assert performed == ["0-data"]


def test_synthetic_speech_is_capped_and_compared(make, sets, performed, tmp_path):
    rows = [
        dataclasses.replace(row, id=f"s{index}", text="two one")
        for index, row in enumerate(read_manifest(sets / "pool.tsv").utterances[2:])
    ]
    write_manifest(tmp_path / "made.tsv", rows, root=str(sets))
    hours = (rows[0].duration_s + rows[1].duration_s) / 3600
    synthetic = {"manifests": [str(tmp_path / "made.tsv")], "max_hours": hours, "compare": True}
    out = selftrain(make("rounds=1", synthetic=synthetic)).parent
    assert performed == ["0-data", "0-asr", "0-asr-without-synthetic", "1-labels", "1-asr"]
    rates = {
        name: stage._best_of(training(make(synthetic=synthetic), 0, real_only=real).finetune)[1:]
        for name, real in (("with", False), ("without", True))
    }
    (whole,) = json.loads((out / "0-synthetic/effect.json").read_text())["groups"]  # no column tells dev apart
    assert {name: whole[f"cer_{name}"] for name in rates} == {name: rate[0] for name, rate in rates.items()}
    drawn = read_manifest(out / "0-data/synthetic.tsv").utterances
    assert 0 < len(drawn) < 4
    weights = read_table(out / "1-labels/weights.tsv", ("id",))
    assert all(weights[row.id]["weight"] == "1.000000" for row in drawn)
    report = (out / "report.md").read_text()
    assert f"| all | 3 | {whole['cer_without']:.1%} | {whole['cer_with']:.1%} |" in report
    assert f"synthetic: {4 - len(drawn)} left out, beyond synthetic.max_hours" in report


@pytest.mark.parametrize("other", ["dev", "test"])
def test_audio_of_dev_or_test_in_the_pool_stops_the_chain(make, sets, other, tmp_path):
    pool = read_manifest(sets / "pool.tsv").utterances
    row = read_manifest(sets / f"{other}.tsv").utterances[0]
    data, rate = soundfile.read(sets / row.path, dtype="int16")
    soundfile.write(tmp_path / "copy.flac", data, rate)
    copy = dataclasses.replace(row, id="copied", path=str(tmp_path / "copy.flac"), text=None)
    write_manifest(tmp_path / "pool.tsv", [*pool, copy], root=str(sets))
    changed = {"manifests": [str(tmp_path / "pool.tsv")]}
    with pytest.raises(ManifestError, match=rf"pool: 1 utterances share .*copied has the same samples as {row.id} of"):
        selftrain(make(pool=changed))
    out = selftrain(make("rounds=1", "leaks=skip", "redo=true", pool=changed)).parent
    assert "copied" not in {each.id for each in read_manifest(out / "0-data/pool.tsv").utterances}
    assert "pool\tcopied\thas the same samples" in (out / "0-data/left_out.tsv").read_text()


def test_texts_of_dev_and_parts_of_its_files_are_leaks(make, sets, tmp_path):
    rows = [*read_manifest(sets / "pool.tsv").utterances]
    rows[2] = dataclasses.replace(rows[2], text="Ten, ten!")
    row = read_manifest(sets / "dev.tsv").utterances[2]
    part = dataclasses.replace(row, id="part", num_samples=4000, start=2000, file_samples=row.num_samples, text=None)
    write_manifest(tmp_path / "pool.tsv", [*rows, part], root=str(sets))
    with pytest.raises(ManifestError, match=r"pool: 2 utterances") as caught:
        selftrain(make(pool={"manifests": [str(tmp_path / "pool.tsv")]}))
    assert "u4 has the same text as u21 of dev" in str(caught.value)
    assert "part overlaps in its file with u22 of dev" in str(caught.value)


def test_an_utterance_of_the_pool_with_a_labelled_id_but_other_audio_stays(make, sets, tmp_path):
    rows = [*read_manifest(sets / "pool.tsv").utterances]
    rows[2] = dataclasses.replace(rows[2], id="u0")
    write_manifest(tmp_path / "pool.tsv", rows, root=str(sets))
    out = selftrain(make("rounds=1", pool={"manifests": [str(tmp_path / "pool.tsv")]})).parent
    assert {row.id for row in read_manifest(out / "0-data/pool.tsv").utterances} == {"pool-u0", "u5", "u6", "u7"}


def test_other_languages_of_the_pool_are_left_out_unless_they_are_asked_for(make, sets, tmp_path):
    changed = {}
    for name, languages in (("labelled", ["en-US"] * 4), ("pool", [None, None, "en", "fr", None, "EN_gb"])):
        rows = zip(read_manifest(sets / f"{name}.tsv").utterances, languages, strict=True)
        tagged = [dataclasses.replace(row, language=language) for row, language in rows]
        write_manifest(tmp_path / f"{name}.tsv", tagged, root=str(sets))
        changed[name] = {"manifests": [str(tmp_path / f"{name}.tsv")]}
    out = selftrain(make("rounds=1", **changed)).parent
    assert [row.id for row in read_manifest(out / "0-data/pool.tsv").utterances] == ["u4", "u6", "u7"]
    assert "pool: 1 left out, in fr, labels are in en; languages=any takes it" in (out / "report.md").read_text()
    out = selftrain(make("rounds=1", "languages=any", "redo=true", **changed)).parent
    assert len(read_manifest(out / "0-data/pool.tsv").utterances) == 4


def test_what_expects_more_errors_than_are_allowed_is_told_with_the_least_errors(make):
    reason = r"expected CER above keep\.max_cer=1e-09; the surest one's expected CER is [01]\.\d+; take a better"
    with pytest.raises(ManifestError, match=reason):
        selftrain(make("rounds=1", "keep.max_cer=1e-9"))


def test_what_no_batch_can_hold_and_what_looks_hallucinated_is_left_out_by_reason(make):
    config = make("rounds=1", "finetune.batch.seconds=0.77", "keep.rate_margin=1000")
    out = selftrain(config).parent  # u7 lasts 0.78 s
    found = json.loads((out / "1-labels/labels.json").read_text())["pool"]
    assert found["left_out"]["longer than the 0.77 s that a batch holds"] == 1
    scores = read_table(out / "1-labels/scores.tsv", ("id",))
    assert (scores["u7"]["kept"], scores["u7"]["expected_accuracy"]) == ("0", "")
    with pytest.raises(ManifestError, match=r"no utterance of the pool keeps its pseudo-label: .* letters a second"):
        selftrain(make("rounds=1", "keep.rate_margin=1", "redo=true"))


def test_a_draw_with_dropout_is_repeatable_and_another_recogniser_may_take_its_place(finetuned, sets):
    saved, manifest = SavedModel.read(finetuned), read_manifest(sets / "pool.tsv")

    def found(keep: KeepConfig, seed: int = 0) -> list[Scored]:
        return transcribe_scored(saved, manifest, Greedy(), keep, seed=seed, skips=None)

    wild = KeepConfig(dropout=0.9)
    assert found(wild) == found(wild)
    assert found(wild) != found(wild, seed=1)
    assert all(each.measures["agreement"] == 1 for each in found(KeepConfig(second=finetuned)))
    assert all("agreement" not in each.measures for each in found(KeepConfig(second="none")))
    assert [each.text for each in found(wild)] == [each.text for each in found(KeepConfig(second="none"))]


def test_agreement_is_that_of_several_draws(finetuned, sets):
    saved, manifest = SavedModel.read(finetuned), read_manifest(sets / "pool.tsv")

    def found(seed: int, draws: int) -> list[float]:
        keep = KeepConfig(dropout=0.9, draws=draws)
        scored = transcribe_scored(saved, manifest, Greedy(), keep, seed=seed, skips=None)
        return [each.measures["agreement"] for each in scored]

    single = [found(seed, 1) for seed in (5, 6, 7)]
    assert found(5, 3) == pytest.approx([sum(each) / 3 for each in zip(*single, strict=True)])
    assert found(5, 3) != found(5, 1)


def test_pseudo_labels_alone_are_augmented_more(make):
    config = make("augment_pseudo={speeds: [0.9, 1.1]}", "student={augment: {speeds: [1.0]}}")
    assert training(config, 0).finetune.pseudo is None
    student = training(config, 2).finetune
    assert student.pseudo is not None
    assert student.pseudo.manifests == (config.out / "2-labels/pseudo.tsv",)
    assert student.pseudo.augment.speeds == (0.9, 1.1)
    assert (config.out / "2-labels/pseudo.tsv") in student.data.manifests
    assert student.augment.speeds == (1.0,)
    out = selftrain(dataclasses.replace(config, rounds=1)).parent
    used = json.loads((out / "1-asr/config.json").read_text())
    assert used["pseudo"]["augment"]["speeds"] == [0.9, 1.1]


def test_letters_are_judged_one_by_one(make):
    found = json.loads((selftrain(make("rounds=1")).parent / "1-labels/labels.json").read_text())["letters"]
    assert found["letters"] > 0
    assert 0 <= found["right"] <= 1
    assert 0 <= found["ece_of_map"] <= 1


def test_a_dev_text_may_hold_letters_that_the_labels_lack(make, sets, tmp_path):
    rows = [dataclasses.replace(row, text=f"{row.text} q") for row in read_manifest(sets / "dev.tsv").utterances]
    rows[0] = dataclasses.replace(rows[0], text="qq")  # nothing that the recogniser could write
    write_manifest(tmp_path / "dev.tsv", rows, root=str(sets))
    out = selftrain(make("rounds=1", dev={"manifests": [str(tmp_path / "dev.tsv")]})).parent
    assert json.loads((out / "1-labels/labels.json").read_text())["letters"]["letters"] > 0


def test_a_few_utterances_of_dev_have_no_calibration_error_by_chance(make):
    out = selftrain(make("rounds=1")).parent  # bins of a single utterance would have none, as if the map were perfect
    found = json.loads((out / "1-labels/labels.json").read_text())
    assert found["ece_by_chance"] is None
    assert f"| {found['ece_of_map']:.3f} | - |" in (out / "report.md").read_text()


def test_the_effect_of_synthetic_speech_is_that_of_each_group():
    one = Utterance(id="a", path="a.wav", num_samples=1, sample_rate=16_000, channels=1)
    rows = {
        key: (dataclasses.replace(one, id=key, speaker=speaker, language="ru"), 10)
        for key, speaker in (("a", "x"), ("b", "x"), ("c", "y"), ("d", None))
    }
    without, with_it = {"a": 1, "b": 3, "c": 5, "d": 0}, {"a": 0, "b": 2, "c": 9, "d": 0}
    whole, *parts = differences(rows, without, with_it, ("language", "speaker"), seed=0)
    assert (whole["group"], whole["cer_without"], whole["cer_with"]) == ("all", 9 / 40, 11 / 40)
    assert [(each["group"], each["cer_without"], each["cer_with"]) for each in parts] == [
        ("unknown", 0, 0),
        ("x", 0.2, 0.1),
        ("y", 0.5, 0.9),
    ]
    assert parts[1]["interval"] == pytest.approx([-0.1, -0.1])  # both of its utterances gain as much
    assert parts[2]["interval"] is None  # of a single utterance
    assert whole["interval"][0] < 0.05 < whole["interval"][1]


@pytest.mark.parametrize(("utterances", "is_told"), [(1, False), (5, False), (6, True)])
def test_a_group_that_gets_worse_is_told_unless_a_few_utterances_do_so_by_chance(utterances, is_told):
    whole = {"column": "", "group": "all", "utterances": 50, "cer_without": 0.3, "cer_with": 0.2}
    interval = None if utterances == 1 else [0.1, 0.2]
    group = {"column": "speaker", "group": "x", "utterances": utterances, "cer_without": 0.1, "cer_with": 0.2}
    found = warnings_of([], [whole | {"interval": [-0.2, 0.0]}, group | {"interval": interval}])
    assert [each.partition(" from ")[0] for each in found] == (
        ["Synthetic speech raised the CER of dev of speaker x"] if is_told else []
    )


def test_groups_of_a_column_that_dev_lacks_are_refused_before_anything_is_done(make, performed):
    with pytest.raises(ManifestError, match=r"dev: no column 'accent', which synthetic\.groups names"):
        selftrain(make(synthetic={"manifests": ["x"], "compare": True, "groups": ["speaker", "accent"]}))
    assert performed == []


def test_other_groups_leave_the_data_as_they_are(make, sets, performed):
    synthetic = {"manifests": [str(sets / "labelled.tsv")], "compare": True}
    selftrain(make("rounds=1", synthetic=synthetic))
    performed.clear()
    selftrain(make("rounds=1", "redo=true", synthetic=synthetic | {"groups": ["speaker"]}))
    assert performed == []


def test_the_surest_share_grows_by_round():
    keep = KeepConfig(share=(0.25, 0.5))
    confidence = [0.1, 0.9, 0.5, 0.7]
    chosen = [select(confidence, confidence, keep, round_) for round_ in (1, 2, 3)]
    assert chosen == [
        (0.9, [False, True, False, False]),
        (0.7, [False, True, False, True]),
        (0.7, [False, True, False, True]),
    ]
    assert select([0.5, 0.5, 0.1], [0.5] * 3, KeepConfig(share=(0.4,)), 1)[1] == [True, True, False]
    assert select([], [], keep, 1) == (float("inf"), [])


def test_an_utterance_is_kept_by_its_expected_error():
    keep = KeepConfig(max_cer=0.25)
    assert select([-1.0, -2.0, -3.0], [0.9, 0.75, 0.5], keep, 1) == (-2.0, [True, True, False])
    assert select([-1.0], [0.5], keep, 1) == (float("inf"), [False])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"seed": 1}}, r"finetune\.seed is set by the chain"),
        ({"student": {"weights": "x"}}, r"student\.weights is set by the chain"),
        ({"finetune": {"train": {"steps": 3}}}, r"finetune\.train\.eval_every is 0"),
        ({"finetune": {"lr": 1}}, "unknown key lr"),
        ({"rounds": 0}, "rounds must be 1 or more"),
        ({"tune": {"metric": "wer"}}, "nothing to tune"),
        ({"decode": {"kind": "beam", "lm": "x"}, "tune": {"widen": -1}}, "widen"),
        ({"keep": {"measure": "lm"}}, r"keep\.measure=lm needs a language model"),
        ({"keep": {"measure": "agreement", "second": "none"}}, "second opinion"),
        ({"keep": {"share": [0.5, 1.5]}}, r"keep\.share"),
        ({"keep": {"max_cer": 0}}, r"keep\.max_cer"),
        ({"synthetic": {"manifests": ["x"], "max_hours": 0}}, r"synthetic\.max_hours"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(make, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def texts_of(distinct: int, entropy: float) -> dict:
    return {"distinct_words": distinct, "word_entropy": entropy, "letter_entropy": entropy}


def test_poorer_texts_without_a_gain_on_dev_are_told_as_collapse():
    def one(
        number: int, cer: float, distinct: int, entropy: float, dev_share: float = 0.5, expected_cer: float = 0.25
    ) -> Round:
        labels = {"diversity": {"labelled": texts_of(100, 5.0), "pseudo": texts_of(distinct, entropy)}}
        labels |= {"measure": "lm", "dev_at_threshold": {"share": dev_share}, "dev": {"cer": 0.2}}
        labels |= {"pool": {"kept": 6, "utterances": 10, "expected_cer": expected_cer}}
        return Round(number=number, name=f"{number}-asr", model=Path(), fingerprint="", cer=cer, labels=labels)

    first = Round(number=0, name="0-asr", model=Path(), fingerprint="", cer=0.5)
    assert warnings_of([first, one(1, 0.4, 99, 4.9), one(2, 0.3, 98, 4.8)], None) == []
    (collapse,) = warnings_of([first, one(1, 0.4, 99, 4.9), one(2, 0.4, 98, 4.8)], None)
    assert "Round 2: pseudo-labels hold fewer words" in collapse
    assert "Use 1-asr" in collapse
    (thin,) = warnings_of([first, one(1, 0.4, 60, 4.9)], None)
    assert "distinct words 60% of theirs" in thin
    (read_before,) = warnings_of([first, one(1, 0.4, 99, 4.9, dev_share=0.07)], None)
    assert "keeps 60% of the pool, and 7% of dev: the measure lm means something else" in read_before
    (other_language,) = warnings_of([first, one(1, 0.4, 99, 4.9, expected_cer=0.6)], None)
    assert "expected to have 60% of their letters wrong, the transcripts of dev have 20%" in other_language
    effect = {
        "column": "",
        "group": "all",
        "utterances": 9,
        "cer_without": 0.45,
        "cer_with": 0.5,
        "interval": [-0.1, 0.1],
    }
    woman = effect | {"column": "speaker", "group": "a woman"}
    man = effect | {"column": "speaker", "group": "a man", "interval": [0.01, 0.1]}
    (harm, whom) = warnings_of([first], [effect, woman, man])
    assert "CER of dev of speaker a man from 45.0% to 50.0%" in whom
    assert "Synthetic speech raised the CER of dev from 45.0% to 50.0%" in harm


def test_the_command_shows_each_training(make, capsys, tmp_path):
    make()
    selftrain_command(tmp_path / "recipe.yaml", [], dry_run=True)
    shown = capsys.readouterr().out
    assert "plan.0-asr.train.steps" in shown
    assert "plan.2-asr.weights" in shown
