"""Recognisers in memory: transcripts, alignments and log-posteriors for audio in files and arrays."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack, overload

from speechssl.asr.decoding.decoders import Beam, Flashlight, Greedy, WithLexicon, decoder_for
from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.transcripts.timed import Transcript
from speechssl.audio.reading import AudioConfig
from speechssl.data.given import Audio, Channels
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.inference.pretrained import Encoder
from speechssl.inference.results import FrameTimes, Heard, LogProbs, as_given, listed
from speechssl.model.precision import Precision
from speechssl.stages.align import align_by
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.stages.transcribe import transcribe_by
from speechssl.stages.tuned import read_tuned
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import Vocabulary

# the overloads overlap, because a str is a sequence of str, too; the one for a single utterance comes first

__all__ = ["Decoding", "Recogniser"]


class Decoding(TypedDict, total=False):
    """Options of decoding: those of `speechssl transcribe`, with its defaults."""

    lm: str | Path  # ARPA file of words, or of letters
    lexicon: str | Path  # file of `speechssl lm lexicon`: only its words are written
    lm_weight: float  # weight of the language model
    word_score: float  # score added for each word
    beam: int  # beam size; 0: greedy decoding, unless another option needs a search
    nbest: int  # number of hypotheses with scores, in `alternatives`
    hot_words: Sequence[str]  # words to prefer
    tuned: str | Path  # folder of `speechssl lm tune`: its decoder and weights, in place of all others


class Recogniser(Encoder):
    """An encoder with a CTC head: it transcribes and aligns."""

    def __init__(
        self, saved: SavedModel, model: CTCModel, vocabulary: Vocabulary, *, audio: AudioConfig, precision: Precision
    ) -> None:
        """Wrap a model that is in evaluation mode and on its device; usually called by `load`."""
        super().__init__(saved, model.encoder, audio=audio, precision=precision)
        self.ctc, self.vocabulary = model, vocabulary

    @overload
    def transcribe(  # type: ignore[overload-overlap]
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        **decoding: Unpack[Decoding],
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        audio: Iterable[Audio] | Manifest,
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        **decoding: Unpack[Decoding],
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        audio: Heard,
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        **decoding: Unpack[Decoding],
    ) -> Transcript | list[Transcript]:
        """Transcribe audio, as `speechssl transcribe` does.

        Args:
            audio: one utterance or several, of any length; as the class says.
            sample_rate: sample rate of arrays and tensors, in Hz.
            channels: choice for multichannel audio, see `list_given`.
            decoding: options, see `Decoding`; none for greedy decoding.

        Returns:
            Text, words and letters with their times in seconds.

        Raises:
            AudioError: audio cannot be read or used.
            ConfigError: there is no sample rate, or the options of the decoder are invalid.
        """
        found, _ = transcribe_by(
            self.ctc,
            self.vocabulary,
            listed(audio, sample_rate, channels),
            self._audio_of(channels),
            PosteriorConfig(precision=self.precision),
            decoder=_decoder(**decoding),
            settings="",
        )
        return as_given(audio, found)

    @overload
    def align(  # type: ignore[overload-overlap]
        self, audio: Audio, text: str, sample_rate: int | None = None, *, channels: Channels | None = None
    ) -> Transcript: ...

    @overload
    def align(
        self,
        audio: Iterable[Audio],
        text: Sequence[str],
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
    ) -> list[Transcript]: ...

    def align(
        self,
        audio: Audio | Iterable[Audio],
        text: str | Sequence[str],
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
    ) -> Transcript | list[Transcript]:
        """Align known texts with audio, as `speechssl align` does.

        Args:
            audio: one utterance or several; as the class says, without manifests.
            text: the text of the utterance, or a list of one per utterance.
            sample_rate: sample rate of arrays and tensors, in Hz.
            channels: choice for multichannel audio, see `list_given`.

        Raises:
            ConfigError: the numbers of texts and utterances differ, or there is no sample rate.
            ManifestError: a text is empty.
            VocabularyError: a text holds letters outside the vocabulary, or needs more frames than there are.
        """
        manifest = listed(audio, sample_rate, channels)
        texts = [text] if isinstance(text, str) else list(text)
        if len(texts) != len(manifest.utterances):
            raise ConfigError(
                f"found {len(manifest.utterances)} utterances and {len(texts)} texts; give one text per utterance"
            )
        rows = tuple(dataclasses.replace(row, text=each) for row, each in zip(manifest.utterances, texts, strict=True))
        manifest = dataclasses.replace(manifest, utterances=rows)
        config = PosteriorConfig(precision=self.precision)
        found, _ = align_by(self.ctc, self.vocabulary, manifest, self._audio_of(channels), config, settings="")
        return as_given(audio, found)

    @overload
    def log_probs(  # type: ignore[overload-overlap]
        self, audio: Audio, sample_rate: int | None = None, *, channels: Channels | None = None
    ) -> LogProbs: ...

    @overload
    def log_probs(
        self, audio: Iterable[Audio] | Manifest, sample_rate: int | None = None, *, channels: Channels | None = None
    ) -> list[LogProbs]: ...

    def log_probs(
        self, audio: Heard, sample_rate: int | None = None, *, channels: Channels | None = None
    ) -> LogProbs | list[LogProbs]:
        """Compute the log-probabilities of the tokens in each frame, for external decoders and aligners.

        Args:
            audio: one utterance or several; as the class says.
            sample_rate: sample rate of arrays and tensors, in Hz.
            channels: choice for multichannel audio, see `list_given`.

        Raises:
            AudioError: audio cannot be read or used.
            ConfigError: no sample rate.
        """
        manifest = listed(audio, sample_rate, channels)
        posteriors = log_posteriors(
            self.ctc, manifest, self._audio_of(channels), PosteriorConfig(precision=self.precision), settings=""
        )
        config = self.description.encoder
        found = {
            key: LogProbs(
                values=values,
                tokens=self.vocabulary.tokens,
                frames=FrameTimes.of(len(values), hop=config.hop, window=config.window),
            )
            for key, values in posteriors
        }
        return as_given(audio, [found[row.id] for row in manifest.utterances])


def _decoder(
    *,
    lm: str | Path | None = None,
    lexicon: str | Path | None = None,
    lm_weight: float = 2.0,
    word_score: float = 0.0,
    beam: int = 0,
    nbest: int = 1,
    hot_words: Sequence[str] = (),
    tuned: str | Path | None = None,
) -> Greedy | Beam | WithLexicon | Flashlight:
    """Choose a decoder as `speechssl transcribe` does, with its defaults."""
    if tuned is not None:
        return read_tuned(Path(tuned))
    return decoder_for(
        None if lm is None else Path(lm),
        None if lexicon is None else Path(lexicon),
        Weights(lm_weight=lm_weight, word_score=word_score),
        beam=beam,
        nbest=nbest,
        hot=hot_words,
    )
