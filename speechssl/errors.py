"""The exceptions a user can act on. A wrong argument from our own code is a plain `ValueError`, not one of these.

SpeechSSLError
|-- ConfigError       a recipe or an override
|-- ManifestError     a manifest, a split list, a transcript
|-- AudioError        one audio file
|   `-- AudioSettingError   that another setting would take
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


_OPTIONS = ("min_sample_rate", "channels")  # what commands without a recipe let one choose of how audio is read


class SpeechSSLError(Exception):
    """Anything the user can mend; the command line prints it in one line, without a traceback."""


class ConfigError(SpeechSSLError):
    """A recipe, or an override of it, that cannot be used as it stands."""


class ManifestError(SpeechSSLError):
    """A manifest that cannot be read, or disagrees with the files it lists."""


class AudioError(SpeechSSLError):
    """An audio file that is missing, broken, silent, non-finite, too short, too long or of a refused format."""

    def under(self, settings: str | None) -> "AudioError":
        """Return the error of who reads audio by settings that stand under `settings`; see `AudioSettingError`."""
        return self


class AudioSettingError(AudioError):
    """Audio that another setting of how it is read would take. Who reads it knows by what name that is set, if at all.

    Args:
        found: what is wrong, with the file.
        cure: what to do that needs no setting.
        key: field of `AudioConfig`.
        value: that would take the audio.
        purpose: what for, if that is not plain.
        settings: what stands before the key: a section, as `dev.audio.`, `--` for options; None where it is not set.
    """

    def __init__(
        self, found: str, cure: str, key: str, value: str, purpose: str = "", settings: str | None = None
    ) -> None:
        super().__init__(found, cure, key, value, purpose, settings)

    def __str__(self) -> str:
        """Say it all."""
        found, cure, key, value, purpose, settings = self.args
        if settings is None or (settings == "--" and key not in _OPTIONS):
            return f"{found}; {cure}"
        named = f"--{key.replace('_', '-')} {value}" if settings == "--" else f"{settings}{key}={value}"
        return f"{found}; {cure}, or set {named}{purpose}"

    def under(self, settings: str | None) -> AudioError:
        """Return the same with the place where its setting stands."""
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
