"""Download models from the Hugging Face hub: `hf://org/name[@revision][/file]`, by huggingface_hub and its cache."""

import re
from collections.abc import Callable
from pathlib import Path

from speechssl.errors import CheckpointError, PackageError

__all__ = ["HUB", "fetch"]

HUB = re.compile(r"hf:/{1,2}")  # a `Path` merges the two slashes
_NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/\s]+(?:/[^/\s]+)*?))?"
    r"(?P<file>/[^@\s]+\.(?:pt|pth|bin|ckpt|safetensors))?"
)
_SMALL = ("*.json", "*.txt", "*.model", "*.yaml")  # settings, vocabularies, tokenizers
_PARAMETERS = (("*.safetensors",), ("pytorch_model*.bin",), ("*.pt", "*.pth"))  # only the first kind found is fetched


def fetch(where: str) -> Path:
    """Return the folder or file in the local cache with a model of the hub; download what is missing.

    Without a network, or with HF_HUB_OFFLINE=1, only the cache is used. HF_HOME, HF_TOKEN and the like are respected.

    Args:
        where: `hf://org/name`, `hf://org/name@revision`, or either followed by `/file` for one file of it.

    Raises:
        CheckpointError: the name cannot be parsed, or the model does not exist, or it cannot be downloaded now.
        PackageError: huggingface_hub is not installed.
    """
    named = _NAME.fullmatch(HUB.sub("", where, count=1).rstrip("/"))
    if named is None:
        raise CheckpointError(f"{where}: expected hf://org/name, hf://org/name@revision, or either followed by /file")
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise PackageError(f"{where}: models of the hub need huggingface_hub: pip install 'speechssl[hub]'") from error
    repo, revision, file = named["repo"], named["revision"], named["file"]

    def download(kinds: tuple[str, ...], local_files_only: bool) -> Path:
        if file is not None:
            return Path(hf_hub_download(repo, file[1:], revision=revision, local_files_only=local_files_only))
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=list(kinds), local_files_only=local_files_only)
        )

    def download_or_find(kinds: tuple[str, ...]) -> Path:
        try:
            return download(kinds, local_files_only=False)
        except (HfHubHTTPError, HFValidationError):  # an answer of the hub, or of its cache
            raise
        except Exception:  # from requests or httpx: huggingface_hub 1 asks for a commit that its cache holds
            return download(kinds, local_files_only=True)

    try:
        return _one_kind(download_or_find)
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where}: not in this machine's cache, and the hub cannot be reached; check the network and "
            "HF_HUB_OFFLINE, or name a folder that holds the model"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # includes models and revisions that do not exist
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{where}: cannot be downloaded from the hub ({reason}); correct the name, or log in if the model is gated"
        ) from error


def _one_kind(download: Callable[[tuple[str, ...]], Path]) -> Path:
    """Fetch settings and one kind of parameters, so that a model stored in five formats is fetched once."""
    for kinds in _PARAMETERS:
        found = download((*_SMALL, *kinds))
        if found.is_file() or any(next(found.glob(kind), None) for kind in kinds):
            break
    return found
