"""A path -> the model in it, whichever format it has."""

from pathlib import Path

from mindpress.errors import InputError
from mindpress.sources.folder import ModelFolder, open_folder
from mindpress.sources.source import ModelSource
from mindpress.sources.workspace import FOLDER, Workspace, open_workspace


def is_workspace(path: Path) -> bool:
    """Whether `path` is laid out as a TurboMind workspace, damaged or not."""
    return (path / FOLDER).is_dir()


def open_source(path: Path) -> ModelSource:
    """Open and check a workspace or a model folder. Reads no weights; raises InputError."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder", hint="give a model folder or a workspace")
    return open_workspace(path) if is_workspace(path) else open_folder(path)


def format_of(source: ModelSource) -> str:
    """The name of the format: hf for floats, turbomind, or the `quant_method` of a folder."""
    if isinstance(source, Workspace):
        return "turbomind"
    layout = source.layout if isinstance(source, ModelFolder) else None
    return layout.method if layout else "hf"
