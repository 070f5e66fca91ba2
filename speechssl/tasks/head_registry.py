"""The registry of heads, and the type of a recipe's section `task`."""

from collections.abc import Mapping
from typing import Annotated

from speechssl.config import OneOf
from speechssl.errors import ConfigError
from speechssl.tasks.frame_classes import FrameClasses
from speechssl.tasks.heads import Head, HeadConfig
from speechssl.tasks.speaker_embedding import SpeakerEmbedding
from speechssl.tasks.utterance_classes import UtteranceClasses
from speechssl.tasks.utterance_values import UtteranceValues

__all__ = ["HEADS", "AnyHeadConfig", "head_of"]

_OURS: tuple[Head, ...] = (UtteranceClasses(), FrameClasses(), UtteranceValues(), SpeakerEmbedding())
HEADS: dict[str, Head] = {head.kind: head for head in _OURS}


def head_of(config: HeadConfig) -> Head:
    """Return the head of a configuration.

    Raises:
        ConfigError: no head has this kind.
    """
    if config.kind not in HEADS:
        raise ConfigError(f"no head is called {config.kind!r}, expected one of {', '.join(HEADS)}")
    return HEADS[config.kind]


def _kinds() -> Mapping[str, type]:
    return {kind: head.config_type for kind, head in HEADS.items()}


AnyHeadConfig = Annotated[HeadConfig, OneOf(_kinds, hint="; ".join(f"{head.kind} is {head.title}" for head in _OURS))]
