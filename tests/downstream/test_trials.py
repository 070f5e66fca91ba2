"""Lists of trials, in the forms of several toolkits."""

import numpy as np
import pytest

from speechssl.downstream.trials import read_trials, write_trials
from speechssl.errors import ManifestError

PAIRS = (("a/b.wav", "a/c.wav", True), ("a/b.wav", "d/e.wav", False), ("d/e.wav", "1", False))
WORDS = {True: "target", False: "nontarget"}
FORMS = {
    "voxceleb.txt": lambda a, b, same, score: f"{int(same)} {a} {b}",
    "kaldi": lambda a, b, same, score: f"{a} {b} {WORDS[same]}",
    "tabs.txt": lambda a, b, same, score: f"{a}\t{b}\t{WORDS[same]}",
    "commas.txt": lambda a, b, same, score: f"{a},{b},{int(same)}",
    "nist.txt": lambda a, b, same, score: f"{a} {b} {'tgt' if same else 'imp'}",
}
SCORED = {
    "speechbrain.txt": lambda a, b, same, score: f"{a} {b} {int(same)} {score}",
    "wespeaker.score": lambda a, b, same, score: f"{a} {b} {score} {WORDS[same]}",
    "vox.txt": lambda a, b, same, score: f"{int(same)}\t{a}\t{b}\t{score}",
}
HEADED = {
    "one.tsv": "first\tsecond\tlabel",
    "two.csv": "enrol_id,test_id,target",
    "three.tsv": "utt1\tutt2\tis_target",
    "four.csv": "Path 1,Path 2,Same",
}


@pytest.mark.parametrize("name", FORMS)
def test_lists_without_scores(tmp_path, name):
    lines = [FORMS[name](*pair, 0) for pair in PAIRS]
    (tmp_path / name).write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    found = read_trials(tmp_path / name)
    assert [*zip(found.first, found.second, found.is_target.tolist(), strict=True)] == [*PAIRS]
    assert found.scores is None
    assert found.lines == (1, 3, 4)


@pytest.mark.parametrize("name", SCORED)
def test_lists_with_scores(tmp_path, name):
    scores = [0.5, -1.25, float("inf")]
    lines = [SCORED[name](*pair, score) for pair, score in zip(PAIRS, scores, strict=True)]
    (tmp_path / name).write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    found = read_trials(tmp_path / name)
    assert [*zip(found.first, found.second, found.is_target.tolist(), strict=True)] == [*PAIRS]
    assert found.scores.tolist() == scores


@pytest.mark.parametrize("name", HEADED)
def test_tables_with_a_header(tmp_path, name):
    sign = "," if name.endswith("csv") else "\t"
    lines = [sign.join((f'"{a}"' if sign == "," else a, b, str(int(same)))) for a, b, same in PAIRS]
    (tmp_path / name).write_text("\n".join([HEADED[name], *lines]))
    found = read_trials(tmp_path / name)
    assert [*zip(found.first, found.second, found.is_target.tolist(), strict=True)] == [*PAIRS]


def test_utterances_with_the_names_of_columns_are_no_header(tmp_path):
    (tmp_path / "trials").write_text("utt1 utt2 target\nutt1 utt3 nontarget\n")
    assert read_trials(tmp_path / "trials").first == ("utt1", "utt1")


def test_names_with_blanks_between_tabs(tmp_path):
    (tmp_path / "trials").write_text("1\tmy speech/a b.wav\tc d.wav\n")
    assert read_trials(tmp_path / "trials").first == ("my speech/a b.wav",)


def test_scores_and_labels_alone(tmp_path):
    (tmp_path / "scores").write_text("0.5 target\n-3 nontarget\n")
    found = read_trials(tmp_path / "scores")
    assert (found.first, found.scores.tolist(), found.is_target.tolist()) == ((), [0.5, -3], [True, False])


@pytest.mark.parametrize("scores", [None, np.array([1 / 3, -1e-9, 1e30])])
def test_what_is_written_is_read(tmp_path, scores):
    first, second, is_target = zip(*PAIRS, strict=True)
    write_trials(tmp_path / "t.tsv", first, second, is_target, scores)
    found = read_trials(tmp_path / "t.tsv")
    assert (found.first, found.second, found.is_target.tolist()) == (first, second, [*is_target])
    assert found.scores is None if scores is None else np.allclose(found.scores, scores, rtol=1e-8)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "holds no trials"),
        ("first\tsecond\tlabel\n", "holds no trials"),
        ("a b c\nd e f\n", r":1: expected `1 path path`"),
        ("1 a b c d\n", r":1: expected `1 path path`"),
        ("1 a b\n0 a\n", r":2: expected 3 columns"),
        ("1 a b\n0 a c\n2 a d\n", r":3: expected target or nontarget, or 1 or 0, found '2'"),
        ("a b 1 0.5\na c 0 nan\n", r":2: the score is 'nan'"),
        ("a b 1 0.5\na c 0 0.2\na d 0 x\n", r":3: the score is 'x'"),
        ("a target\nb nontarget\n", r":1: expected a column of scores"),
    ],
)
def test_what_is_no_list_of_trials_is_refused(tmp_path, text, wanted):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ManifestError, match=wanted):
        read_trials(tmp_path / "t")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ManifestError, match="none: cannot read the trials"):
        read_trials(tmp_path / "none")
