"""The triples of an ABX test: which items are A, B and X, by speaker and context, with seeded limits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from speechssl.config import configuration
from speechssl.downstream.phone_items import PhoneItem
from speechssl.errors import ConfigError, LabelError

__all__ = ["CONDITIONS", "AbxConfig", "AbxTask", "Block", "Context", "Groups", "Speakers", "plan_abx"]

Speakers = Literal["within", "across"]
Context = Literal["any", "triphone"]
Groups = Mapping[str, tuple[int, ...]]  # numbers of items by phone
_Key = tuple[tuple[str, str] | None, str]  # context, speaker
CONDITIONS: tuple[tuple[Speakers, Context], ...] = (
    ("within", "any"),
    ("within", "triphone"),
    ("across", "any"),
    ("across", "triphone"),
)


@configuration
class AbxConfig:
    """Limits of an ABX test, and its distance; the first two limits are those of Zerospeech 2021."""

    distance: Literal["angular", "euclidean", "identical"] = "angular"  # identical: of units, one a frame
    max_items: int | None = 10  # items of one phone, context and speaker, drawn at random; null: all
    max_speakers: int | None = 5  # speakers of X for A and its speaker, drawn at random; null: all
    max_pairs: int | None = 1_000_000  # pairs of items to compare; blocks of speaker and context are drawn; null: all
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_items is not None and self.max_items < 2:
            raise ConfigError(f"max_items must be at least 2, so that A and X differ, found {self.max_items}")
        for name, value in (("max_speakers", self.max_speakers), ("max_pairs", self.max_pairs)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, or null for no limit, found {value}")


@dataclass(frozen=True, kw_only=True)
class Block:
    """Items whose distances are compared: A and B of one speaker and context with X of one speaker."""

    speaker: str  # of A and B
    x: Groups  # items that are X: of this speaker too, the same as A but for X itself, or of another
    ab: Groups  # items that are A and B

    @property
    def num_pairs(self) -> int:
        """Number of distances."""
        return sum(map(len, self.x.values())) * sum(map(len, self.ab.values()))


@dataclass(frozen=True, kw_only=True)
class AbxTask:
    """All blocks of one condition, and what the limits left out."""

    speakers: Speakers
    context: Context
    blocks: tuple[Block, ...]
    drawn_share: float  # share of all blocks' pairs that are compared
    items_left_out: int  # items over `max_items`
    single: tuple[str, ...]  # phones that no speaker and context has twice (within): never X
    alone: tuple[str, ...]  # speakers none of whose contexts has two phones: in no triple as A and B

    @property
    def name(self) -> str:
        """Readable name of the condition."""
        return f"{self.speakers}, {self.context}"

    @property
    def used(self) -> set[int]:
        """Numbers of the items whose features are needed."""
        return {
            number
            for block in self.blocks
            for groups in (block.x, block.ab)
            for numbers in groups.values()
            for number in numbers
        }


def plan_abx(items: Sequence[PhoneItem], speakers: Speakers, context: Context, config: AbxConfig) -> AbxTask:
    """Choose the blocks of one condition.

    `within`: A, B and X of one speaker; X and A are different items of one phone, and each phone that has two is X.
    `across`: A and B of one speaker, X of another; one item of A is enough. `triphone`: A, B and X share the phones
    before and after them. B is every other phone of the block; order counts, so that a pair of phones is tested both
    ways.

    The limits keep the same items of a phone, context and speaker wherever they take part, as A, B or X. fastabx draws
    anew for each cell, from polars' generator: limited tests agree with it in their mean only.

    Raises:
        LabelError: no triple fits the condition.
    """
    generator = np.random.default_rng(config.seed)
    groups, items_left_out = _grouped(items, context, config, generator)
    if speakers == "within":
        blocks = [
            Block(speaker=speaker, x=x, ab=found)
            for (_, speaker), found in groups.items()
            if len(found) > 1 and (x := {phone: each for phone, each in found.items() if len(each) > 1})
        ]
    else:
        blocks = _across(groups, config, generator)
    if not blocks:
        raise LabelError(
            f"no triple of phones for ABX ({speakers}, {context}): expected a speaker with two phones"
            + (" in one context" if context == "triphone" else "")
            + (", one of them twice" if speakers == "within" else ", and another speaker with one of them")
            + f"; found {len(items)} phones of {len({item.speaker for item in items})} speakers"
        )
    pairs = sum(block.num_pairs for block in blocks)
    chosen = _drawn(blocks, config, generator)
    twice = {phone for found in groups.values() for phone, each in found.items() if len(each) > 1}
    able = {speaker for (_, speaker), found in groups.items() if len(found) > 1}
    return AbxTask(
        speakers=speakers,
        context=context,
        blocks=tuple(chosen),
        drawn_share=sum(block.num_pairs for block in chosen) / pairs,
        items_left_out=items_left_out,
        single=tuple(sorted({item.phone for item in items} - twice)) if speakers == "within" else (),
        alone=tuple(sorted({item.speaker for item in items} - able)),
    )


def _grouped(
    items: Sequence[PhoneItem], context: Context, config: AbxConfig, generator: np.random.Generator
) -> tuple[dict[_Key, dict[str, tuple[int, ...]]], int]:
    """Group items by context and speaker, then by phone; return the groups, and how many items the limit left out."""
    rank = generator.permutation(len(items))
    found: dict[_Key, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, item in enumerate(items):
        around = (item.previous, item.next) if context == "triphone" else None
        found[around, item.speaker][item.phone].append(number)
    left_out = 0
    groups: dict[_Key, dict[str, tuple[int, ...]]] = {}
    for key, phones in found.items():
        groups[key] = {}
        for phone, numbers in phones.items():
            kept = sorted(sorted(numbers, key=lambda number: rank[number])[: config.max_items])
            left_out += len(numbers) - len(kept)
            groups[key][phone] = tuple(kept)
    return groups, left_out


def _across(groups: Mapping[_Key, Groups], config: AbxConfig, generator: np.random.Generator) -> list[Block]:
    """Pair each speaker's phones with the same phones of others, in the same context."""
    speakers: dict[_Key, list[str]] = defaultdict(list)  # by context and phone
    for (around, speaker), found in groups.items():
        for phone in found:
            speakers[around, phone].append(speaker)
    blocks = []
    for (around, speaker), found in groups.items():
        if len(found) < 2:
            continue
        x: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)  # by speaker of X, by phone
        for phone in found:
            others = [other for other in speakers[around, phone] if other != speaker]
            if config.max_speakers is not None and len(others) > config.max_speakers:
                chosen = generator.choice(len(others), config.max_speakers, replace=False)
                others = [others[index] for index in sorted(chosen)]
            for other in others:
                x[other][phone] = groups[around, other][phone]
        blocks += [Block(speaker=speaker, x=each, ab=found) for each in x.values()]
    return blocks


def _drawn(blocks: Sequence[Block], config: AbxConfig, generator: np.random.Generator) -> list[Block]:
    """Draw blocks until their pairs reach the limit, one at least; they keep their order."""
    if config.max_pairs is None:
        return list(blocks)
    chosen: list[int] = []
    pairs = 0
    for index in generator.permutation(len(blocks)).tolist():
        if not chosen or pairs + blocks[index].num_pairs <= config.max_pairs:
            chosen.append(index)
            pairs += blocks[index].num_pairs
    return [blocks[index] for index in sorted(chosen)]
