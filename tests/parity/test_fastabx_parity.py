"""ABX against fastabx, on the same items and features.

Largest differences seen on real speech: 2.4e-7 of 609,296 pairs; fastabx computes angles in float32, which may turn the
comparison of two distances that nearly agree.
"""

import dataclasses

import pytest
import torch

from tests.optional import NO_FASTABX

pytest.importorskip("fastabx", reason=NO_FASTABX)

import polars
from fastabx import Dataset, InMemoryAccessor, Score, Task

from speechssl.downstream.abx import score_abx
from speechssl.downstream.abx_cells import CONDITIONS, AbxConfig, plan_abx
from speechssl.downstream.phone_items import frames_of
from tests.downstream.drawn_items import HOP, drawn_items, frames_for

pytestmark = pytest.mark.parity

NAMES = {"phone": "#phone", "previous": "prev-phone", "next": "next-phone", "speaker": "speaker"}
LEVELS = {"any": ["speaker"], "triphone": [("next-phone", "prev-phone"), "speaker"]}


@pytest.mark.parametrize(("speakers", "context"), CONDITIONS)
@pytest.mark.parametrize("distance", ["angular", "euclidean", "identical"])
@pytest.mark.parametrize("is_silent", [False, True], ids=["", "with silent frames"])
def test_the_error_is_that_of_fastabx(speakers, context, distance, is_silent):
    items, features = drawn_items(200, phones="abcdef", speakers="stu")
    if is_silent:
        features[::5] = 0
    if distance == "identical":
        features = features[:, :1].round()
    config = AbxConfig(max_items=None, max_speakers=None, max_pairs=None, distance=distance)
    found = score_abx(plan_abx(items, speakers, context, config), frames_for(items, features), config)

    pieces = [torch.from_numpy(features[slice(*frames_of(item, hop=HOP))]) for item in items]
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0).tolist()
    indices = dict(enumerate(zip([0, *ends], ends, strict=False)))
    labels = polars.DataFrame([{NAMES[key]: dataclasses.asdict(item)[key] for key in NAMES} for item in items])
    by = ["prev-phone", "next-phone"] if context == "triphone" else []
    task = Task(
        Dataset(labels=labels, accessor=InMemoryAccessor(indices, torch.cat(pieces), torch.device("cpu"))),
        on="#phone",
        by=by + ["speaker"] * (speakers == "within"),
        across=["speaker"] * (speakers == "across"),
    )
    score = Score(task, distance, progress=False)
    assert found.error == pytest.approx(score.collapse(levels=LEVELS[context]), abs=1e-6)
    assert found.triples == score.cells["size"].sum()
    assert found.cells == len(score.cells)


@pytest.mark.parametrize("context", ["within", "any"])
def test_an_item_file_gives_what_it_gives_zerospeech(tmp_path, context):
    from fastabx.zerospeech import zerospeech_abx

    from speechssl.downstream.abx import ItemFrames
    from speechssl.downstream.phone_items import read_items

    items, features = drawn_items(150, speakers="stu")
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    lines += [
        f"u {item.onset_s + 0.003:.4f} {item.offset_s + 0.0031:.4f} {item.phone} {item.previous} {item.next} "
        f"{item.speaker}"
        for item in items[:-1]
    ]
    (tmp_path / "test.item").write_text("\n".join(lines) + "\n")
    torch.save(torch.from_numpy(features), tmp_path / "u.pt")
    config = AbxConfig(max_items=None, max_speakers=None, max_pairs=None)
    read = read_items(tmp_path / "test.item")
    for speakers in ("within", "across"):
        task = plan_abx(read, speakers, "any" if context == "any" else "triphone", config)
        frames = ItemFrames(read, task.used, dim=4, hop=HOP)
        frames.add("u", features)
        theirs = zerospeech_abx(
            tmp_path / "test.item",
            tmp_path,
            max_size_group=None,
            max_x_across=None,
            speaker=speakers,
            context=context,
            device="cpu",
            progress=False,
        )
        assert score_abx(task, frames, config).error == pytest.approx(theirs, abs=1e-6)
