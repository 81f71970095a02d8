"""A model argument -> a local folder: a path as it is, or an id downloaded from the Hub."""

from pathlib import Path

from mindpress.errors import InputError, NetworkError

# Weights as safetensors only; pickles are never fetched.
PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]


def local_folder(
    model: str, *, revision: str | None = None, download_dir: Path | None = None
) -> Path:
    """The folder of `model`; downloads it when it is no path. NetworkError names the local way."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{model}: is a file, expected a model folder")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(
            f"{model}: no such folder", hint="give a folder, or a Hub id like org/name"
        )
    return _download(model, revision, download_dir)


def _download(model: str, revision: str | None, download_dir: Path | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    hint = "check the name and your connection, or give the path of a folder you have"
    try:
        return Path(
            snapshot_download(
                model, revision=revision, cache_dir=download_dir, allow_patterns=PATTERNS
            )
        )
    except HFValidationError as error:
        raise InputError(f"{model}: {error}", hint=hint) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(
            f"{model}: no such folder, and the Hub said: {reason}", hint=hint
        ) from None
