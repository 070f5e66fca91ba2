"""What is wrong with a labelled set, before training: speechssl.stages.preflight, its words, and the command."""

import dataclasses
import json
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ConfigError, ManifestError, VocabularyError
from speechssl.hub.saved import SavedModel
from speechssl.stages.align import align
from speechssl.stages.finetune import FinetuneConfig, check_texts, finetune
from speechssl.stages.preflight import Preflight, Rules, preflight
from speechssl.stages.preflight_advice import about_freezing, replacement
from speechssl.stages.preflight_text import as_json, lines, short_lines
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.transcribe import transcribe
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import Letters, Phones, Pieces

RULES = Rules(units=Letters(), text=TextConfig(), bad_text="stop", bad_length="stop", hop=320, window=400)
SKIP = dataclasses.replace(RULES, bad_text="skip", bad_length="skip")


def manifest(*texts: str | None, seconds: float = 5.0, rate: int = 16_000) -> Manifest:
    rows = [
        Utterance(
            id=f"u{i}", path=f"u{i}.wav", num_samples=int(seconds * rate), sample_rate=rate, channels=1, text=text
        )
        for i, text in enumerate(texts)
    ]
    return Manifest(root=Path(), utterances=tuple(rows))


def look(*texts: str | None, rules: Rules = RULES, dev: Manifest | None = None, **audio: float) -> Preflight:
    return preflight(manifest(*texts, **audio), dev, rules)


def test_a_set_without_faults_is_ready_and_has_ids_for_every_utterance() -> None:
    found = look("aab b", "ba", dev=manifest("ab"))
    assert found.errors == ()
    assert found.unfit == found.foreign == found.unusual == ()
    assert found.tokens == {"u0": [2, 2, 3, 1, 3], "u1": [3, 2]}
    assert found.refuse().tokens == ("<blank>", "|", "a", "b")
    assert lines(found)[-1] == "verdict  ready: 2 utterances to learn from"


@pytest.mark.parametrize(("letters", "is_refused"), [(249, False), (250, True)])
def test_the_frames_that_a_text_needs_are_its_letters_and_repeats(letters: int, is_refused: bool) -> None:
    """5 s make 249 frames: (80,000 - 400) // 320 + 1."""
    found = look("ab" * (letters // 2) + "a" * (letters % 2))
    assert found.frames["u0"] == (letters, 249)
    assert bool(found.errors) == is_refused
    repeated = look("a" * 100)
    assert repeated.frames["u0"] == (199, 249)


def test_audio_that_is_sped_up_makes_fewer_frames() -> None:
    found = look("ab" * 120, rules=dataclasses.replace(RULES, fastest=1.1))
    assert found.frames["u0"][1] == (int(80_000 / 1.1) - 400) // 320 + 1
    with pytest.raises(VocabularyError, match=r"u0 \(text needs 240 frames, audio makes 227\)"):
        found.refuse()


def test_all_that_is_refused_is_said_at_once_with_counts_and_three_names() -> None:
    rules = dataclasses.replace(RULES, text=TextConfig(punctuation="remove", digits="refuse"))
    found = look(None, "ab", "...", "at 7", "ab" * 200, None, None, None, rules=rules, dev=manifest("", "ab"))
    with pytest.raises(VocabularyError) as caught:
        found.refuse()
    said = str(caught.value).splitlines()
    assert said[0].startswith("4 utterances have no text: u0, u5, u6; fill the manifest's text column")
    assert said[1].startswith("1 texts are empty after the policy of texts: u2 ('...'); correct them")
    assert said[2].startswith("1 texts hold digits, and text.digits=refuse: u3 (7); write numbers")
    assert said[3].startswith("dev: 1 utterances have no text: u0")
    assert said[4].startswith("1 utterances are too short for their text: u4 (text needs 400 frames, audio makes 249)")
    assert len(said) == 5
    assert sum(line.startswith("refused") for line in lines(found)) == 5
    assert lines(found)[-1] == "verdict  training would refuse"


def test_what_is_left_out_is_listed_and_the_rest_is_ready() -> None:
    rules = dataclasses.replace(SKIP, text=TextConfig(digits="refuse"))
    found = look(None, "ab", "at 7", "ab" * 200, rules=rules)
    assert found.errors == ()
    assert [row.id for row in found.usable(manifest("a", "a", "a", "a")).utterances] == ["u1"] == [*found.tokens]
    report = "\n".join(lines(found))
    assert "skips    train, no text: 1: u0" in report
    assert "skips    train, digits: 1: u2 (7)" in report
    assert "skips    train, too short: 1: u3 (text needs 400 frames, audio makes 249)" in report


def test_texts_that_are_left_out_lend_no_letters_but_those_too_short_do_as_ever() -> None:
    found = look("ab", "x7", "yz" * 200, rules=dataclasses.replace(SKIP, text=TextConfig(digits="refuse")))
    assert found.refuse().tokens == ("<blank>", "|", "a", "b", "y", "z")


@pytest.mark.parametrize("texts", [(None, None), ("ab" * 200,)])
def test_where_nothing_is_left_training_is_refused(texts) -> None:
    with pytest.raises((VocabularyError, ManifestError), match="no utterance is left to learn from"):
        look(*texts, rules=SKIP).refuse()


def test_a_single_fault_keeps_its_own_kind_of_error() -> None:
    with pytest.raises(ManifestError, match="1 utterances have no text: u1"):
        look("a", None).refuse()
    with pytest.raises(ConfigError, match=r"speechssl\[pieces\]|units"):
        look("a", rules=dataclasses.replace(RULES, units=Pieces(size=1))).refuse()


def test_letters_of_dev_that_training_lacks_are_named_with_their_places() -> None:
    found = look("ab cd " * 5, dev=manifest("abé", "x ax", "ab", "xx"))
    assert [(each.token, each.count, each.ids) for each in found.foreign] == [
        ("x", 4, ("u1", "u3")),
        ("é", 1, ("u0",)),
    ]
    assert found.errors == ()  # they will be wrong, that is all
    assert "dev holds 2 letters that train lacks: 'x' (4 times, as in u1), 'é' U+00E9 (1 times, as in u0)" in "\n".join(
        short_lines(found)
    )


def test_a_development_set_in_another_script_is_noticed() -> None:
    assert any(
        "10 of 10 letters of dev are not in train: another language, script or case?" in note
        for note in look("мама", dev=manifest("hallo", "hello")).notes
    )
    assert not any("letters of dev" in note for note in look("ab " * 20, dev=manifest("ab" * 20 + "x")).notes)


def test_rare_letters_are_listed_with_what_may_stand_for_them() -> None:
    found = look("eaea eaea eé", "aeae Aq", "ёжик " * 4)
    rare = {each.token: (each.count, each.replaced_by) for each in found.rare}
    assert rare["é"] == (1, "e")
    assert rare["A"] == (1, "a")
    assert rare["q"] == (1, None)
    assert "ё" in rare
    assert rare["ё"][1] is None  # without its dots it is not there
    assert set("ea") <= set(as_json(found)["suggested_vocabulary"])
    assert not {"é", "q", "A"} & set(as_json(found)["suggested_vocabulary"])
    report = "\n".join(lines(found))
    assert 'text: {replace: [["A", "a"], ["é", "e"]]}' in report
    assert "leave out the utterances with q" in report


def test_the_suggested_replacements_do_what_they_say() -> None:
    found = look("eaea eaea eé", "aeae Aq")
    policy = TextConfig(replace=tuple(map(tuple, as_json(found)["suggested_replace"])))
    again = look("eaea eaea eé", "aeae Aq", rules=dataclasses.replace(RULES, text=policy))
    assert again.refuse().tokens == ("<blank>", "|", "a", "e", "q")


@pytest.mark.parametrize(
    ("letter", "known", "expected"),
    [
        ("ё", "е", "е"), ("Ё", "ё", "ё"), ("É", "e", "e"), ("ß", "s", None), ("क़", "क", "क"), ("أ", "ا", "ا"),
        ("が", "か", "か"), ("学", "字", None), ("\u0301", "a", None),
    ],
)  # fmt: skip
def test_a_letter_is_replaced_by_its_other_case_or_by_itself_without_marks(letter, known, expected) -> None:
    assert replacement(unicodedata.normalize("NFC", letter), {known}) == expected


def test_cases_signs_digits_and_pace_are_worth_a_note() -> None:
    notes = "\n".join(look("Hello, you 3 there!", "well well").notes)
    assert "texts mix cases, 1 capitals among 20 small letters" in notes
    assert "1 texts hold signs that nobody says (! ,): text.punctuation=remove" in notes
    assert "1 texts hold digits, spoken in more ways than one" in notes
    assert look("hello", "don't rock-n-roll").notes == ()


@pytest.mark.parametrize(("letters", "is_noted"), [(10, True), (45, False), (75, False), (90, True)])
def test_a_pace_that_nobody_speaks_at_points_at_the_sample_rate(letters: int, is_noted: bool) -> None:
    found = look(*["ab" * (letters // 2) + "a" * (letters % 2)] * 10, seconds=5.0)
    assert any("is the sample rate right?" in note for note in found.notes) == is_noted


def test_a_pace_says_nothing_of_scripts_without_an_alphabet() -> None:
    assert look(*["学校学生"] * 10, seconds=2.0).notes == ()


def test_utterances_of_unusual_length_or_pace_are_listed() -> None:
    rows = [*manifest(*["abcde fghij " * 4] * 40).utterances]
    rows[7] = dataclasses.replace(rows[7], num_samples=16_000 * 60)
    rows[9] = dataclasses.replace(rows[9], text="a")
    found = preflight(Manifest(root=Path(), utterances=tuple(rows)), None, RULES)
    assert [(each.id, each.what.split(",")[0]) for each in found.unusual] == [
        ("u7", "lasts 60.00 s"),
        ("u7", "0.7 letters a second"),
        ("u9", "0.2 letters a second"),
    ]


def test_a_trunk_that_is_frozen_for_ever_is_noticed() -> None:
    assert [*about_freezing(999, 1000)] == []
    assert "frozen for the whole run: ctc.freeze_steps=1000, train.steps=1000" in next(about_freezing(1000, 1000))


def test_the_preview_shows_texts_that_the_policy_changes_first() -> None:
    policy = TextConfig(case="lower", punctuation="remove")
    found = look("abc", "Hello, You!", "def", rules=dataclasses.replace(RULES, text=policy))
    assert found.preview[0] == ("Hello, You!", "hello you")
    assert "      -> hello you" in lines(found)


def test_words_without_phones_are_listed_or_left_out_in_both_sets(tmp_path) -> None:
    (tmp_path / "lexicon").write_text("one\tw ʌ n\ntwo\tt u\n", encoding="utf-8")
    rules = dataclasses.replace(RULES, units=Phones(lexicon=tmp_path / "lexicon"))
    found = look("one two", "one three four", "two", rules=rules, dev=manifest("five", "two"))
    said = [str(error) for error in found.errors]
    assert said[0].startswith("1 texts hold words that the lexicon lacks: u1 (three, four); add the words to it")
    assert said[1].startswith("dev: 1 texts hold words that the lexicon lacks: u0 (five)")
    skipping = look("one two", "one three four", "two", rules=dataclasses.replace(rules, bad_text="skip"))
    assert [*skipping.tokens] == ["u0", "u2"]


def test_everything_is_there_for_machines_utterance_by_utterance() -> None:
    found = look("ab", None, "abab", rules=SKIP, dev=manifest("ax"))
    values = json.loads(json.dumps(as_json(found)))
    assert values["frames"] == {"u0": {"required": 2, "made": 249}, "u2": {"required": 4, "made": 249}}
    assert values["unfit"] == [{"id": "u1", "split": "train", "fault": "no text", "detail": "u1", "is_skipped": True}]
    assert values["foreign"][0]["token"] == "x"
    assert values["train"]["sample_rates"] == {"16000": 3}
    assert values["refused"] == []


# --------------------------------------------------------------------------------- in a run, and by the command


@pytest.fixture
def recipe(tmp_path, pretrained, corpus) -> Callable[..., Path]:
    """Give a function that writes a recipe and a manifest with changed texts."""

    def write(**texts: str) -> Path:
        manifest = read_manifest(corpus)
        rows = [
            dataclasses.replace(row, path=str(corpus.parent / row.path), text=texts.get(row.id, row.text))
            for row in manifest.utterances
        ]
        write_manifest(tmp_path / "train.tsv", rows)
        values = {
            "out": str(tmp_path / "run"),
            "checkpoint": str(pretrained),
            "data": {"manifests": [str(tmp_path / "train.tsv")]},
            "train": {"steps": 1, "log_every": 1},
            "batch": {"seconds": 20},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "recipe.yaml"

    return write


def test_the_command_prints_the_report_and_ends_with_0_or_1(recipe, tmp_path, capsys) -> None:
    assert main(["preflight", str(recipe()), "-o", str(tmp_path / "found.json")]) == 0
    assert "verdict  ready: 8 utterances to learn from" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["vocabulary"][:2] == ["<blank>", "|"]
    assert main(["preflight", str(recipe(u0002="")), "ctc.freeze_steps=5"]) == 1
    said = capsys.readouterr().out
    assert "refused  1 utterances have no text: u0002" in said
    assert "the trunk is frozen for the whole run: ctc.freeze_steps=5, train.steps=1" in said
    assert main(["preflight", str(recipe()), "batch.seconds=0.6"]) == 1
    assert "lasts 0.9 s, more than a batch (batch.seconds=0.6)" in capsys.readouterr().out
    assert main(["preflight", str(recipe()), "data.audio.normalize=true"]) == 1
    assert "refused  data.audio.normalize=true, but run/step_00000003 was trained with false" in capsys.readouterr().out
    assert main(["preflight", str(recipe()), "units.kind=phonemes"]) == 2


def test_a_run_says_in_short_what_was_found_before_its_first_step(recipe, capfd) -> None:
    assert main(["finetune", str(recipe(u0001="TWO 2")), "ctc.freeze_steps=0"]) == 0
    said = capfd.readouterr().err
    assert "preflight: 8 utterances, 0.1 min, 14 tokens (letters); Unicode NFC, single spaces" in said
    assert "preflight: texts mix cases, 3 capitals" in said
    assert said.index("preflight: 1 texts hold digits") < said.index("finetune 1/1")


def test_a_run_with_a_policy_keeps_it_for_whatever_is_written_later(finetune_config, recipe, tmp_path, capsys) -> None:
    recipe(u0001="TWO, one!", u0003="six-TWO")
    data = DataConfig(manifests=(tmp_path / "train.tsv",))
    policy = TextConfig(case="upper", punctuation="remove", replace=(("six", "ten"),))
    config: FinetuneConfig = finetune_config(tmp_path / "run", data=data, dev=data, text=policy)
    assert check_texts(config).preview[0] == ("one two", "ONE TWO")
    finetune(config)
    described = SavedModel.read(tmp_path / "run").description
    assert described.vocabulary == ("<blank>", "|", "-", *sorted(set("ONETWO")))
    assert described.speller().reference("six, two.") == "TEN TWO"
    assert set((tmp_path / "run/dev.tsv").read_text()) <= set("u01234567\t\nidtext- ONETWO")
    aligned, _ = align(tmp_path / "run", read_manifest(tmp_path / "train.tsv"))
    assert [(each.id, each.text) for each in aligned][:4] == [
        ("u0000", "ONE TWO"), ("u0001", "TWO ONE"), ("u0002", "ONE"), ("u0003", "TEN-TWO"),
    ]  # fmt: skip
    said = [str(tmp_path / "train.tsv"), str(tmp_path / "run/dev.tsv")]
    assert main(["score", *said, "--model", str(tmp_path / "run"), "-o", str(tmp_path / "score.json")]) == 0
    last = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()][-1]
    assert json.loads((tmp_path / "score.json").read_text())["cer"] == last["dev_cer"]
    assert "cannot write" not in capsys.readouterr().err
    recipe(u0002="a·b", u0003="b")
    assert main(["score", *said, "--model", str(tmp_path / "run")]) == 0
    lacking = "'A' (u0002), 'B' (u0002), '·' (u0002)\n"
    warning = f"run: cannot write some characters of the references, which count as errors: {lacking}"
    assert warning in capsys.readouterr().err


def test_a_run_leaves_out_what_cannot_be_learned_when_asked_for(finetune_config, recipe, tmp_path, capfd) -> None:
    recipe(u0001="", u0004="?")
    data = DataConfig(manifests=(tmp_path / "train.tsv",))
    policy = TextConfig(punctuation="remove")
    finetune(finetune_config(tmp_path / "run", data=data, dev=data, text=policy, bad_text="skip"))
    said = capfd.readouterr().err
    assert "left out, without text: 1 utterances: u0001" in said
    assert "left out, with a text that is empty after the policy: 1 utterances: u0004 ('?')" in said
    assert "left out, dev: without text: 1 utterances: u0001" in said
    rows = (tmp_path / "run/dev.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["u0000", "u0002", "u0003", "u0005", "u0006", "u0007"]


@pytest.mark.parametrize("kind", ["phones", "pieces"])
def test_a_run_with_other_units_is_scored_and_transcribes(finetune_config, corpus, tmp_path, kind: str) -> None:
    if kind == "pieces":
        pytest.importorskip("sentencepiece")
        units = Pieces(size=14)
    else:
        lexicon = "one\tw ʌ n\ntwo\tt u\nsix\ts ɪ k s\nten\tt ɛ n\n"
        (tmp_path / "lexicon").write_text(lexicon, encoding="utf-8")
        units = Phones(lexicon=tmp_path / "lexicon")
    data = DataConfig(manifests=(corpus,))
    finetune(finetune_config(tmp_path / "run", units=units, dev=data))
    (tmp_path / "lexicon").unlink(missing_ok=True)  # the model keeps what it needs
    reports = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert ("dev_per" if kind == "phones" else "dev_cer") in reports[-1]
    speller = SavedModel.read(tmp_path / "run").description.speller()
    assert speller.decode(speller.encode("six two", where="x")) == ("s ɪ k s | t u" if kind == "phones" else "six two")
    found, skipped = transcribe(tmp_path / "run", read_manifest(corpus))
    assert len(found) == 8
    assert skipped == []
    assert all(left.end_s <= right.start_s for each in found for left, right in pairwise(each.words))
