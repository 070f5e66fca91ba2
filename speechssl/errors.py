"""Exceptions for problems that the user can fix; a wrong argument in our own code is a plain `ValueError`.

SpeechSSLError
|-- ConfigError       a recipe or an override
|-- ManifestError     a manifest, a split list, a transcript
|-- AudioError        one audio file
|   `-- AudioSettingError   one that other settings would accept
|-- LabelError        frame labels, or the k-means they come from
|-- VocabularyError   a text that does not fit the vocabulary, a target too long for its audio
|-- CheckpointError   a checkpoint or a run folder
|-- TrainingError     a run that cannot go on
|-- StoppedError      a run that was asked to stop, and has saved: no failure
|-- CorpusError       a corpus that cannot be fetched or laid out
`-- PackageError      a package that is missing, or does not fit another
"""

__all__ = [
    "AudioError",
    "AudioSettingError",
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


_OPTIONS = ("min_sample_rate", "channels")  # keys of `AudioConfig` that are options of commands without a recipe


class SpeechSSLError(Exception):
    """A problem that the user can fix; the command line prints it in one line, without a traceback."""


class ConfigError(SpeechSSLError):
    """A recipe or an override that is invalid."""


class ManifestError(SpeechSSLError):
    """A manifest that cannot be read, or disagrees with the files it lists."""


class AudioError(SpeechSSLError):
    """An audio file that is missing, broken, silent, non-finite, too short, too long or of a refused format."""

    def under(self, settings: str | None) -> "AudioError":
        """Return the error for callers whose audio settings are found under `settings`; see `AudioSettingError`."""
        return self


class AudioSettingError(AudioError):
    """Audio that another setting would accept; the caller adds under which name the setting is found, if any.

    Args:
        found: what is wrong, with the file.
        cure: what to do without a change of settings.
        key: field of `AudioConfig`.
        value: value of the field that would accept the audio.
        purpose: purpose of the setting, if it is not obvious.
        settings: prefix of the key: a section such as `dev.audio.`, or `--` for options; None if it cannot be set.
    """

    def __init__(
        self, found: str, cure: str, key: str, value: str, purpose: str = "", settings: str | None = None
    ) -> None:
        super().__init__(found, cure, key, value, purpose, settings)

    def __str__(self) -> str:
        """Return the message, with the setting if it can be set."""
        found, cure, key, value, purpose, settings = self.args
        if settings is None or (settings == "--" and key not in _OPTIONS):
            return f"{found}; {cure}"
        named = f"--{key.replace('_', '-')} {value}" if settings == "--" else f"{settings}{key}={value}"
        return f"{found}; {cure}, or set {named}{purpose}"

    def under(self, settings: str | None) -> AudioError:
        """Return the same error with the prefix of its setting."""
        found, cure, key, value, purpose, _ = self.args
        return AudioSettingError(found, cure, key, value, purpose, settings)


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
