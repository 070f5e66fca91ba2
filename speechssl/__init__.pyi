"""The public names for type checkers; `_NAMES` of `__init__.py` lists them for use at run time."""

from speechssl.asr.scoring.evaluate import ScoreConfig as ScoreConfig
from speechssl.asr.scoring.scores_of import score as score
from speechssl.asr.transcripts.timed import Timed as Timed
from speechssl.asr.transcripts.timed import Transcript as Transcript
from speechssl.audio.reading import AudioConfig as AudioConfig
from speechssl.data.batching import BatchConfig as BatchConfig
from speechssl.data.manifest import read_manifest as read_manifest
from speechssl.data.manifest import write_manifest as write_manifest
from speechssl.data.utterances import Manifest as Manifest
from speechssl.data.utterances import Utterance as Utterance
from speechssl.errors import SpeechSSLError as SpeechSSLError
from speechssl.inference.load import load as load
from speechssl.inference.pretrained import Encoder as Encoder
from speechssl.inference.pretrained import Pretrained as Pretrained
from speechssl.inference.recogniser import Decoding as Decoding
from speechssl.inference.recogniser import Recogniser as Recogniser
from speechssl.inference.results import Features as Features
from speechssl.inference.results import LogProbs as LogProbs
from speechssl.inference.results import Units as Units
from speechssl.model.encoder import EncoderConfig as EncoderConfig
from speechssl.model.encoder import SpeechEncoder as SpeechEncoder
from speechssl.stages.cluster import ClusterConfig as ClusterConfig
from speechssl.stages.cluster import cluster as cluster
from speechssl.stages.finetune import FinetuneConfig as FinetuneConfig
from speechssl.stages.finetune import finetune as finetune
from speechssl.stages.pretrain import PretrainConfig as PretrainConfig
from speechssl.stages.pretrain import pretrain as pretrain
from speechssl.stages.reading_data import DataConfig as DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig as ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig as CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig as MaskedPredictionConfig
from speechssl.tasks.random_projection import RandomProjectionConfig as RandomProjectionConfig
from speechssl.tasks.teacher import TeacherConfig as TeacherConfig
from speechssl.train.learner import TrainConfig as TrainConfig
from speechssl.train.loop import fit as fit
from speechssl.train.optim import OptimConfig as OptimConfig
from speechssl.units.kmeans import KMeans as KMeans

__version__: str
from speechssl.model.context import StepContext as StepContext
from speechssl.tasks.model import LossSum as LossSum
from speechssl.train.run import Run as Run
