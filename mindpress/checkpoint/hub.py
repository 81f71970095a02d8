"""A model argument -> a local folder, and a file of a Hub dataset -> a local file."""

import errno
from pathlib import Path

from mindpress.errors import InputError, MindpressError, NetworkError, ResourceError

# Weights as safetensors only; pickles are never fetched.
PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]
# Copies of the same weights in other formats and names.
NOT_NEEDED = ["*/*", "consolidated*"]
MODEL_HINT = "check the name and your connection, or give the path of a folder you have"
# Without an answer in this time the Hub counts as unreachable; its client would try for minutes.
SECONDS_TO_ANSWER = 10.0


def local_folder(
    model: str, *, revision: str | None = None, download_dir: Path | None = None
) -> Path:
    """The folder of `model`; downloads it when it is no path. NetworkError names the local way."""
    if not model.strip():
        raise InputError("the model's name is empty", hint="give a folder, or a Hub id")
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path
        there = path.exists()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{model}: no such folder: {error}", hint=MODEL_HINT) from None
    if there:
        raise InputError(f"{model}: is a file, expected a model folder")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(
            f"{model}: no such folder", hint="give a folder, or a Hub id like org/name"
        )
    return _download(model, revision, download_dir)


def _download(model: str, revision: str | None, download_dir: Path | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx

    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=download_dir,
                allow_patterns=PATTERNS,
                ignore_patterns=NOT_NEEDED,
            )
        )
    except (httpx.HTTPError, OSError, HFValidationError) as error:
        raise hub_error(f"{model}: no such folder, and", error, MODEL_HINT) from None


def dataset_file(repo: str, revision: str, name: str, hint: str) -> Path:
    """The file `name` of a dataset repository: from the cache, or else downloaded into it.

    A cached file is used without asking the Hub, so a second run needs no connection. Errors
    are NetworkError with `hint`.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    def get(local: bool) -> Path:
        return Path(
            hf_hub_download(
                repo, name, repo_type="dataset", revision=revision, local_files_only=local
            )
        )

    try:
        return get(local=True)
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise hub_error(f"dataset {repo}:", error, hint) from None
    try:
        HfApi().dataset_info(repo, revision=revision, timeout=SECONDS_TO_ANSWER, expand=["sha"])
        return get(local=False)
    except (httpx.HTTPError, OSError) as error:
        raise hub_error(f"dataset {repo}:", error, hint) from None


def dataset_names(repo: str, revision: str, hint: str) -> list[str]:
    """Names of the files of a dataset repository; those in the cache when the Hub is away."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    try:
        info = HfApi().dataset_info(repo, revision=revision, timeout=SECONDS_TO_ANSWER)
        return [file.rfilename for file in info.siblings or []]
    except (httpx.HTTPError, OSError, HFValidationError) as error:
        failed = hub_error(f"dataset {repo}:", error, hint)
    try:
        folder = Path(
            snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError):
        raise failed from None
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def hub_error(prefix: str, error: Exception, hint: str) -> MindpressError:
    """What the Hub's client raised, in one line of our words that begins with `prefix`."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    if isinstance(error, HFValidationError):
        return InputError(f"{prefix} it is no Hub id: {_first_line(error)}", hint=hint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{prefix} the disk is full", hint="free some space, or set HF_HOME")
    if isinstance(error, GatedRepoError):
        hint = "accept its conditions on its page, then log in: hf auth login"
    return NetworkError(f"{prefix} {_reason(error)}", hint=hint)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    if isinstance(error, errors.GatedRepoError):
        return "the Hub wants its conditions accepted first"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such repository, or a private one"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the Hub has no such revision of it"
    cause = error.__cause__ or error
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub"
    if isinstance(error, (httpx.TransportError, errors.LocalEntryNotFoundError)):
        return f"the Hub cannot be reached: {_first_line(cause)}"
    return f"the Hub said: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
