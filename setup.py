"""Package metadata; tool settings are in pyproject.toml, exact versions for development in .ci/requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXTRAS = {  # what a command lacks, it names by these
    "train": ["tensorboard>=2.16", "jiwer>=4.0", "fonttools>=4.40"],
    "score": ["jiwer>=4.0", "rapidfuzz>=3.9"],
    "check": ["fonttools>=4.40", "xxhash>=3.4"],
    "corpora": ["imageio-ffmpeg>=0.5"],  # a program ffmpeg, for who has none: G.722, m4a, aac, webm
    "plots": ["matplotlib>=3.8", "librosa>=0.11"],
}

setup(
    name="speechssl",
    version=re.search(r'__version__ = "(.+)"', (HERE / "speechssl/__init__.py").read_text(encoding="utf-8"))[1],
    description="Speech self-supervised representation learning: wav2vec 2.0 and HuBERT on one trunk, CTC, WER",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["speechssl", "speechssl.*"]),
    package_data={"speechssl": ["py.typed", "__init__.pyi", "report/runs_page.html", "asr/scoring/error_page.html"]},
    install_requires=[
        "langcodes>=3.5",  # no data package: which codes are of which language
        "torch>=2.9",
        "torchaudio>=2.9",  # no bounds say which go together: speechssl/extras.py does, at import
        "numpy>=1.26",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "rich>=13.8",
        "safetensors>=0.4.5",
        "soundfile>=0.13",
        "typer>=0.16",
    ],
    extras_require={
        **EXTRAS,
        "all": sorted({requirement for extra in EXTRAS.values() for requirement in extra}),
        # one feature each, beyond `all`
        "parquet": ["pyarrow>=15"],  # manifests of millions of rows, features for datasets
        "hdf5": ["h5py>=3.10"],  # extract --format hdf5
        "pieces": ["sentencepiece>=0.2"],  # pieces of words as tokens of fine-tuning
        "remote": ["fsspec>=2024.6", "aiohttp>=3.9", "s3fs>=2024.6"],  # audio at URLs
        "vad": ["silero-vad>=6.2.3", "onnxruntime>=1.23"],  # manifest segment by a trained model
        "datasets": ["datasets>=4"],  # saved datasets of Hugging Face as manifests
        "hub": ["huggingface_hub>=0.30"],  # models by name: hf://org/name
        "ray": ["ray>=2.9"],  # manifest build, check and segment on a cluster
        "wandb": ["wandb>=0.22"],  # train.log.wandb=PROJECT
        "onnx": ["onnx>=1.19", "onnxruntime>=1.23", "onnxscript>=0.5"],  # to write ONNX and to run it
        "ctranslate2": ["ctranslate2>=4.8", "transformers>=4.57"],  # convert --to ctranslate2
        "interop": ["transformers>=4.57"],  # runs converted models for comparison; 4.57 and 5 are alike here
        "fairseq2": [  # its loader and converter; the only torch it has packages for is 2.9.1
            'fairseq2==0.8.1; python_version < "3.13"',  # needs Debian's libsndfile1
            'torchaudio==2.9.1; python_version < "3.13"',
        ],
        "decode": [  # transcribe --flashlight; kenlm is compiled: needs a compiler and cmake
            'flashlight-text>=0.0.7; python_version < "3.13"',
            'kenlm>=0.3; python_version < "3.13"',
        ],
        "bench": [  # peers of recipes/benchmarks
            *["faiss-cpu", "superkmeans", "fastkmeans", "scikit-learn"],
            *["lhotse", "datasets", "pyctcdecode", "ctc-beam-decoder"],
        ],
        "dev": ["build", "codespell", "hypothesis", "mypy", "pytest", "ruff", "types-PyYAML", "uniseg"],
    },
    entry_points={"console_scripts": ["speechssl = speechssl.__main__:console"]},
    classifiers=[
        *[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)],
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
