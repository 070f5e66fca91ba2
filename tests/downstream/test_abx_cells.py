"""Which items are A, B and X."""

import dataclasses

import pytest

from speechssl.downstream.abx_cells import CONDITIONS, AbxConfig, AbxTask, plan_abx
from speechssl.errors import ConfigError, LabelError
from tests.downstream.drawn_items import drawn_items

ALL = AbxConfig(max_items=None, max_speakers=None, max_pairs=None)


def _triples(task: AbxTask) -> set[tuple[int, int, int]]:
    return {
        (x, a, b)
        for block in task.blocks
        for phone, numbers in block.x.items()
        for x in numbers
        for a in block.ab[phone]
        for other, others in block.ab.items()
        for b in others
        if a != x and other != phone
    }


@pytest.mark.parametrize(("speakers", "context"), CONDITIONS)
def test_every_triple_that_fits_the_condition_is_there(speakers, context):
    items, _ = drawn_items(30, speakers="stu")
    expected = set()
    for x, of_x in enumerate(items):
        for a, of_a in enumerate(items):
            for b, of_b in enumerate(items):
                fits = x != a and of_x.phone == of_a.phone != of_b.phone and of_a.speaker == of_b.speaker
                fits &= (of_x.speaker == of_a.speaker) == (speakers == "within")
                if context == "triphone":
                    fits &= of_x.previous == of_a.previous == of_b.previous
                if fits:
                    expected.add((x, a, b))
    task = plan_abx(items, speakers, context, ALL)
    assert _triples(task) == expected
    assert (task.drawn_share, task.items_left_out) == (1.0, 0)


@pytest.mark.parametrize(("speakers", "context"), CONDITIONS)
def test_limits_draw_some_of_the_triples_again_and_again_the_same(speakers, context):
    items, _ = drawn_items(200, speakers="stuv")
    limits = AbxConfig(max_items=3, max_speakers=2, max_pairs=150)
    task = plan_abx(items, speakers, context, limits)
    assert task == plan_abx(items, speakers, context, limits)
    assert task != plan_abx(items, speakers, context, dataclasses.replace(limits, seed=1))
    assert _triples(task) < _triples(plan_abx(items, speakers, context, ALL))
    assert max(len(numbers) for block in task.blocks for numbers in block.ab.values()) == 3
    assert sum(block.num_pairs for block in task.blocks) <= 150 < 150 / task.drawn_share
    assert task.items_left_out > 0


def test_x_comes_from_so_many_other_speakers_at_most():
    items, _ = drawn_items(300, speakers="stuvw")
    blocks = plan_abx(items, "across", "any", dataclasses.replace(ALL, max_speakers=2)).blocks
    for speaker in "stuvw":
        of_speaker = [block for block in blocks if block.speaker == speaker]
        assert [sum(phone in block.x for block in of_speaker) for phone in "abc"] == [2, 2, 2]


def test_phones_and_speakers_that_cannot_take_part_are_named():
    items, _ = drawn_items(20, phones="ab", speakers="s")
    single = dataclasses.replace(items[0], phone="rare")
    alone = dataclasses.replace(items[0], speaker="of one phone")
    task = plan_abx([*items, single, alone], "within", "any", ALL)
    assert (task.single, task.alone) == (("rare",), ("of one phone",))


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        (
            "within",
            r"no triple of phones for ABX \(within, any\): expected a speaker with two phones, one of them twice",
        ),
        ("across", r"\(across, any\): .*, and another speaker with one of them; found 2 phones of 1 speakers"),
    ],
)
def test_without_a_triple_the_error_says_what_is_missing(speakers, message):
    items, _ = drawn_items(1)
    items = [items[0], dataclasses.replace(items[0], phone="other")]
    with pytest.raises(LabelError, match=message):
        plan_abx(items, speakers, "any", ALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_items": 1}, "max_items must be at least 2"),
        ({"max_speakers": 0}, "max_speakers"),
        ({"max_pairs": 0}, "pairs"),
    ],
)
def test_limits_that_leave_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AbxConfig(**changes)
