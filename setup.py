"""Package metadata; tool settings are in pyproject.toml, exact versions for development in .ci/requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="speechssl",
    version="0.1.0",
    description="Speech self-supervised representation learning: wav2vec 2.0 and HuBERT on one trunk, CTC, WER",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["speechssl", "speechssl.*"]),
    package_data={"speechssl": ["py.typed", "runs/page.html", "score/page.html"]},
    install_requires=[
        "torch>=2.9",
        "torchaudio>=2.9",
        "fonttools>=4.40",
        "imageio-ffmpeg>=0.5",
        "jiwer>=4.0",
        "rapidfuzz>=3.9",  # alignments; jiwer counts with it
        "librosa>=0.11",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "rich>=13.0",
        "safetensors>=0.4.5",
        "scipy>=1.10",
        "soundfile>=0.13",
        "tensorboard>=2.16",
        "typer>=0.15",
        "xxhash>=3.4",  # tells doubled audio
    ],
    extras_require={
        "interop": ["transformers>=4.57,<5"],  # the references that parity is tested against
        "onnx": ["onnx>=1.19", "onnxruntime>=1.23", "onnxscript>=0.5"],  # to write ONNX and to run it
        "s3prl": ["s3prl>=0.4.18", "omegaconf>=2.1"],  # does not import with torchaudio 2.9 as it is: interop/s3prl.py
        "fairseq2": ["fairseq2==0.8.1"],  # pins torch 2.9.1; needs Debian's libsndfile1
        "datasets": ["datasets>=4"],  # saved datasets of Hugging Face as manifests
        "remote": ["fsspec>=2024.6", "aiohttp>=3.9", "s3fs>=2024.6"],  # audio at URLs
        "parquet": ["pyarrow>=15"],  # manifests of millions of rows
        "ray": ["ray>=2.9"],  # manifest build, check and segment on a cluster
        "vad": ["silero-vad>=6.2.3", "onnxruntime>=1.23"],  # manifest segment by a trained model
        "decode": ["flashlight-text>=0.0.7", "kenlm>=0.2"],  # torchaudio's ctc_decoder
        "pieces": ["sentencepiece>=0.2"],  # pieces of words as tokens of fine-tuning
        "wandb": ["wandb>=0.22"],  # train.log.wandb=PROJECT
        "bench": [  # peers of recipes/benchmarks
            *["faiss-cpu", "superkmeans", "fastkmeans", "scikit-learn"],
            *["lhotse", "datasets", "pyctcdecode", "ctc-beam-decoder"],
        ],
        "dev": ["hypothesis", "mypy", "pytest", "ruff", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["speechssl = speechssl.__main__:console"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
