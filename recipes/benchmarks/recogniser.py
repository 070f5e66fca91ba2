"""A recogniser with random weights: as fast as a trained one."""

from pathlib import Path

import torch
from sizes import VOCABULARY, Size

from speechssl.audio.reading import AudioConfig
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import WORD_BOUNDARY, Vocabulary

__all__ = ["write_random"]


def write_random(size: Size, folder: Path, *, seed: int) -> int:
    """Write a recogniser with random weights and `VOCABULARY` tokens; return the number of parameters."""
    torch.manual_seed(seed)
    letters = [chr(ord("a") + number) if number < 26 else chr(ord("à") + number) for number in range(VOCABULARY - 2)]
    vocabulary = Vocabulary(("<blank>", WORD_BOUNDARY, *letters))
    model = CTCModel(SpeechEncoder(size.encoder), size.ctc, len(vocabulary))
    description = Description.of_recogniser(size.encoder, size.ctc, vocabulary, audio=AudioConfig(), family="wav2vec2")
    SavedModel(description=description, tensors=model.state_dict(), name="random").write(folder)
    return sum(parameter.numel() for parameter in model.parameters())
