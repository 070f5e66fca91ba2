"""Speech self-supervised representation learning: wav2vec 2.0 and HuBERT with one encoder, CTC fine-tuning, WER.

    import speechssl

    model = speechssl.load("runs/mine/asr")
    features = model.features("speech.wav", layers=6).values
    text = model.transcribe("speech.wav").text

Names are imported on first use: `import speechssl` is cheap, and a name that needs a missing extra says so when used.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_NAMES = {  # module of each public name, relative to this package; `__init__.pyi` repeats them for type checkers
    "AudioConfig": "audio.reading",
    "BatchConfig": "data.batching",
    "CTCConfig": "tasks.ctc",
    "ClusterConfig": "stages.cluster",
    "ContrastiveConfig": "tasks.contrastive",
    "DataConfig": "stages.reading_data",
    "Encoder": "inference.pretrained",
    "Decoding": "inference.recogniser",
    "EncoderConfig": "model.encoder",
    "Features": "inference.results",
    "FinetuneConfig": "stages.finetune",
    "KMeans": "units.kmeans",
    "LogProbs": "inference.results",
    "MaskedPredictionConfig": "tasks.masked_prediction",
    "LossSum": "tasks.model",
    "Manifest": "data.utterances",
    "OptimConfig": "train.optim",
    "PretrainConfig": "stages.pretrain",
    "Pretrained": "inference.pretrained",
    "Recogniser": "inference.recogniser",
    "Run": "train.run",
    "ScoreConfig": "asr.scoring.evaluate",
    "SpeechEncoder": "model.encoder",
    "SpeechSSLError": "errors",
    "StepContext": "model.context",
    "RandomProjectionConfig": "tasks.random_projection",
    "TeacherConfig": "tasks.teacher",
    "Timed": "asr.transcripts.timed",
    "TrainConfig": "train.learner",
    "Transcript": "asr.transcripts.timed",
    "Units": "inference.results",
    "Utterance": "data.utterances",
    "cluster": "stages.cluster",
    "finetune": "stages.finetune",
    "fit": "train.loop",
    "load": "inference.load",
    "pretrain": "stages.pretrain",
    "read_manifest": "data.manifest",
    "score": "asr.scoring.scores_of",
    "write_manifest": "data.manifest",
}

__all__ = [*_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _NAMES:
        raise AttributeError(f"module 'speechssl' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"speechssl.{_NAMES[name]}")
    except ModuleNotFoundError as error:
        from speechssl.errors import PackageError
        from speechssl.extras import missing_extra

        cure = missing_extra(error, f"speechssl.{name}", ())
        if cure is None:
            raise
        raise PackageError(cure) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
