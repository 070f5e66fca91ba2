"""Speech recognition with CTC as a task, with the loss of `ctc`."""

from typing import ClassVar

from speechssl.model.encoder import SpeechEncoder
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.task import DataSizes, Need, Row, Task

__all__ = ["RecognitionTask"]


class RecognitionTask(Task):
    """Fine-tuning on transcripts: section 3.3 of wav2vec 2.0 (arXiv:2006.11477)."""

    kind = "ctc"
    method = "ctc"
    title = "speech recognition with CTC"
    config_type = CTCConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"tokens"})
    is_pretraining = False
    pipeline = "automatic-speech-recognition"
    head_names = (Row("head", "proj", "lm_head", "aux", "final_proj"),)

    def build(self, config: CTCConfig, encoder: SpeechEncoder, sizes: DataSizes) -> CTCModel:
        """Put a CTC head on an encoder.

        Raises:
            ConfigError: more layers are to be frozen than the encoder has.
        """
        return CTCModel(encoder, config, sizes.vocabulary)
