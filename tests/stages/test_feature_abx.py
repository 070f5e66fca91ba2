"""ABX of features on disk."""

import numpy as np
import pytest

from speechssl.__main__ import main
from speechssl.downstream.abx import score_abx
from speechssl.downstream.abx_cells import AbxConfig, plan_abx
from speechssl.downstream.phone_items import read_items
from speechssl.errors import LabelError
from speechssl.features.feature_folder import FeatureFolder
from speechssl.stages.feature_abx import abx_of_features, read_phone_items
from tests.downstream.drawn_items import HOP, drawn_items, frames_for

HEADER = "#file onset offset #phone prev-phone next-phone speaker\n"


@pytest.fixture
def other_toolkit(tmp_path):
    """Give a folder of arrays and an item file."""
    items, features = drawn_items(40)
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/u.npy", features)
    lines = [f"u {i.onset_s} {i.offset_s} {i.phone} {i.previous} {i.next} {i.speaker}\n" for i in items]
    (tmp_path / "phones.item").write_text(HEADER + "".join(lines))
    return tmp_path


def test_arrays_of_another_toolkit_are_scored_in_all_conditions(other_toolkit):
    items, features = drawn_items(40)
    found = abx_of_features(other_toolkit / "features", read_items(other_toolkit / "phones.item"), AbxConfig(), hop=HOP)
    for task, score in found.scores:
        plan = plan_abx(items, task.speakers, task.context, AbxConfig())
        assert score == score_abx(plan, frames_for(items, features), AbxConfig())
    assert len(found.scores) == 4
    assert (found.no_triples, found.no_features, found.no_frames) == ((), (), ())


def test_the_command_prints_a_line_for_each_condition_and_what_was_left_out(other_toolkit, capsys):
    with (other_toolkit / "phones.item").open("a") as file:
        file.write("u 0.001 0.002 a x z s\nelsewhere 0 1 b x z s\nu 99 99.1 a x z s\n")
    arguments = [str(other_toolkit / "features"), str(other_toolkit / "phones.item"), "--hop", "320"]
    assert main(["abx", *arguments, "--max-items", "0"]) == 0
    said = capsys.readouterr()
    names = [line.split(":")[0] for line in said.out.splitlines()]
    assert names == ["within, any", "within, triphone", "across, any", "across, triphone"]
    assert " % (" in said.out
    assert "left out: 1 utterances without features, of elsewhere" in said.err
    assert "left out: 2 phones without a frame, or past the last, of u\n" in said.err


def test_a_folder_of_extract_knows_its_hop(make_corpus, tmp_path, capsys):
    manifest = make_corpus(tmp_path / "corpus", [16_000, 16_000])
    assert main(["extract", "log_mel", str(manifest), "-o", str(tmp_path / "mel")]) == 0
    spans = (("0 0.3", "a"), ("0.3 0.5", "b"), ("0.5 0.8", "a"))
    rows = [f"u000{i} {span} {phone} x y s{i}\n" for i in range(2) for span, phone in spans]
    (tmp_path / "phones.item").write_text(HEADER + "".join(rows))
    assert FeatureFolder(tmp_path / "mel").description.hop == 160
    capsys.readouterr()
    assert main(["abx", str(tmp_path / "mel"), str(tmp_path / "phones.item")]) == 0
    assert capsys.readouterr().out.startswith("within, any: ")
    with pytest.raises(LabelError, match="which know their hop; leave --hop out"):
        abx_of_features(tmp_path / "mel", read_items(tmp_path / "phones.item"), AbxConfig(), hop=160)


def test_alignments_need_the_speakers_of_a_manifest(other_toolkit):
    (other_toolkit / "phones.ctm").write_text("u 1 0 0.2 a\n")
    with pytest.raises(LabelError, match=r"phones\.ctm: alignments name no speakers; add --manifest"):
        read_phone_items(other_toolkit / "phones.ctm", None)


@pytest.mark.parametrize(
    ("spoil", "hop", "message"),
    [
        (None, None, r"features: has no features\.json; give --hop"),
        (np.zeros(9), 320, r"u\.npy: expected numbers of shape \(frames, dim\), found float64 of \(9,\)"),
        (np.full((9, 2), "x"), 320, r"u\.npy: expected numbers"),
        (b"", 320, r"u\.npy: not an array of numpy"),
        ("gone", 320, r"features: holds no features of the phones' utterances, such as 'u'"),
    ],
)
def test_features_that_cannot_be_used_are_refused(other_toolkit, spoil, hop, message):
    path = other_toolkit / "features/u.npy"
    if isinstance(spoil, np.ndarray):
        np.save(path, spoil)
    elif isinstance(spoil, bytes):
        path.write_bytes(spoil)
    elif spoil is not None:
        path.unlink()
    with pytest.raises(LabelError, match=message):
        abx_of_features(other_toolkit / "features", read_items(other_toolkit / "phones.item"), AbxConfig(), hop=hop)
