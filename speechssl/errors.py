"""The exceptions a user can act on. A wrong argument from our own code is a plain `ValueError`, not one of these.

SpeechSSLError
|-- ConfigError       a recipe or an override
|-- ManifestError     a manifest, a split list, a transcript
|-- AudioError        one audio file
|-- LabelError        frame labels, or the k-means they come from
|-- VocabularyError   a text and a vocabulary that do not fit, a target too long for its audio
|-- CheckpointError   a checkpoint or a run folder
|-- TrainingError     a run that cannot go on
|-- StoppedError      a run that was asked to stop, and has saved: no failure
|-- CorpusError       a corpus that cannot be fetched or laid out
`-- PackageError      a package that is missing, or does not fit another
"""

__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "LabelError",
    "ManifestError",
    "PackageError",
    "SpeechSSLError",
    "StoppedError",
    "TrainingError",
    "VocabularyError",
]


class SpeechSSLError(Exception):
    """Anything the user can mend; the command line prints it in one line, without a traceback."""


class ConfigError(SpeechSSLError):
    """A recipe, or an override of it, that cannot be used as it stands."""


class ManifestError(SpeechSSLError):
    """A manifest that cannot be read, or disagrees with the files it lists."""


class AudioError(SpeechSSLError):
    """An audio file that is missing, broken, silent, non-finite, too short, too long or of a refused format."""


class LabelError(SpeechSSLError):
    """Frame labels that do not belong to the audio, the model or the k-means they are used with."""


class VocabularyError(SpeechSSLError):
    """A text that the vocabulary or the number of frames cannot express."""


class CheckpointError(SpeechSSLError):
    """A checkpoint or run folder that is incomplete, or belongs to another configuration."""


class TrainingError(SpeechSSLError):
    """A training run that cannot go on: nothing to train on, or a loss that is not finite."""


class StoppedError(SpeechSSLError):
    """A run that a signal asked to stop: its last step is saved, the same command goes on. Exit status 0."""


class CorpusError(SpeechSSLError):
    """A corpus that cannot be fetched, or whose layout is not the published one."""


class PackageError(SpeechSSLError):
    """A Python package that is missing, or cannot be loaded beside another."""
