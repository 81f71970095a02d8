"""Names, shapes and single tensors of a safetensors folder, validated when it is opened."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from stat import S_ISREG
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mindpress.errors import InputError

INDEX = "model.safetensors.index.json"
MOST_JSON_BYTES = 64 * 2**20
# Real files have ten levels; thousands would overflow the stack of whoever walks them later.
DEEPEST_JSON = 64
PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
          "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16,
          "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip
NAMED_IN_ERRORS = 5
AGAIN = "download the file again"
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)
# Beside these the Hub's repositories often hold the same weights again under other names.
SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header of a shard says of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """The tensors of a folder. Opening reads headers only; `tensor` reads one tensor.

    Shards are read by position, not memory-mapped, so that what was read leaves no pages behind
    in this process: peak memory is the tensors the caller holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = {file: _open(file) for file in _shard_files(folder)}
        self.tensors: dict[str, TensorInfo] = {}
        for file, shard in self._shards.items():
            for name in shard.keys():  # noqa: SIM118 - a safe_open is no mapping
                if name in self.tensors:
                    raise InputError(f"{file}: tensor `{name}` stands in two shards", hint=AGAIN)
                self.tensors[name] = _info(file, shard, name)
        self._check_index()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    def tensor(self, name: str) -> Tensor:
        """One tensor, in its stored dtype, on the CPU. The caller owns it."""
        try:
            return self._shards[self.tensors[name].file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.tensors[name].file}: `{name}`: {error}", hint=AGAIN) from None

    def _check_index(self) -> None:
        """Every tensor that the index promises is there."""
        index = self.folder / INDEX
        if index.is_file():
            promised = read_json(index)["weight_map"]
            refuse_listed(index, "tensors are missing", promised.keys() - self.tensors.keys())


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`; InputError when a shard is missing, damaged or a pickle."""
    return Checkpoint(folder)


def check_tensors(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()
) -> None:
    """Refuse missing, extra, misshapen and non-float tensors. `ignored` are name endings."""
    folder, endings = checkpoint.folder, tuple(ignored)
    refuse_listed(folder, "tensors are missing", expected.keys() - checkpoint.tensors.keys())
    extra = {n for n in checkpoint.tensors.keys() - expected.keys() if not n.endswith(endings)}
    refuse_listed(folder, "tensors do not belong to the model that config.json describes", extra)
    for name, shape in expected.items():
        info = checkpoint.tensors[name]
        if info.shape != shape:
            raise InputError(
                f"{info.file}: `{name}` is {list(info.shape)}, expected {list(shape)}",
                hint="config.json and the weights are of different models",
            )
        if info.dtype not in FLOATS:
            raise InputError(
                f"{info.file}: `{name}` is {info.dtype}, expected 16 or 32-bit floats",
                hint="save the model in 16-bit floats first",
            )
    refuse_mixed(checkpoint, expected)


def refuse_mixed(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """InputError where some of these are float16 and others bfloat16.

    Every program writes one of them, and nothing but the header says which: the values of a tensor
    whose header was changed look like any others.
    """
    halves = {name: checkpoint.tensors[name].dtype for name in names}
    kinds = Counter(kind for kind in halves.values() if kind in HALVES)
    if len(kinds) > 1:
        (common, count), (rare, _) = kinds.most_common()
        name = min(name for name, kind in halves.items() if kind == rare)
        raise InputError(
            f"{checkpoint.tensors[name].file}: `{name}` is {rare}, and {count} others are {common}",
            hint="download the file again, or save the model in one type",
        )


def refuse_listed(where: Path, what: str, names: Iterable[str]) -> None:
    """InputError that counts and names the first of `names`; nothing when there are none."""
    listed = sorted(names)
    if listed:
        shown = ", ".join(listed[:NAMED_IN_ERRORS]) + (" ..." if listed[NAMED_IN_ERRORS:] else "")
        raise InputError(
            f"{where}: {what} ({len(listed)}): {shown}",
            hint="download the model again, or check config.json",
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError when it is missing, too large or something else."""
    try:
        found = file.stat()
        if not S_ISREG(found.st_mode):  # a pipe or a device would be read without an end
            raise InputError(f"{file}: is no file", hint="copy the file here")
        if found.st_size > MOST_JSON_BYTES:
            raise InputError(f"{file}: larger than {MOST_JSON_BYTES >> 20} MiB", hint=AGAIN)
        value = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file", hint="is this a model folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON: {error}", hint=AGAIN) from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: holds a {type(value).__name__}, expected an object", hint=AGAIN)
    if _is_deeper(value, DEEPEST_JSON):
        raise InputError(f"{file}: nested more than {DEEPEST_JSON} levels deep", hint=AGAIN)
    return value


def _no_number(word: str) -> float:
    """NaN and infinities, which are no JSON: whoever used them would fail later."""
    raise ValueError(f"{word} is no number of JSON")


def _is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects stand in one another more than so many times."""
    inner: list[Any] = [value]
    for _ in range(levels + 1):
        inner = [one for held in inner for one in _held(held) if isinstance(one, dict | list)]
    return bool(inner)


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _shard_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    index = folder / INDEX
    if index.exists():
        names = _indexed(index)
    elif (folder / SINGLE).exists():
        names = [SINGLE]
    else:
        names = sorted(file.name for file in folder.glob("*.safetensors"))
    if not names:
        _refuse_without_shards(folder)
    return [_confined(folder, name) for name in names]


def _refuse_without_shards(folder: Path) -> None:
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder}: `{pickles[0]}` is a pickle, which can run code; it is not read",
            hint="save the model as safetensors first: model.save_pretrained(folder)",
        )
    raise InputError(f"{folder}: no .safetensors file", hint="is this a model folder?")


def _indexed(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and isinstance(file, str) for name, file in weight_map.items()
    ):
        raise InputError(f"{index}: `weight_map` is not a map from tensors to files", hint=AGAIN)
    if not weight_map:
        raise InputError(f"{index}: `weight_map` is empty", hint=AGAIN)
    return sorted(set(weight_map.values()))


def _confined(folder: Path, name: str) -> Path:
    """The shard `name`, which may not leave the folder (but for links into the Hub's cache)."""
    file = folder / name
    if Path(name).name != name:
        raise InputError(f"{folder / INDEX}: `{name}` leaves the folder", hint=AGAIN)
    if not _is_file(file):
        raise InputError(f"{file}: the shard is missing", hint="download the model again")
    refuse_link_outside(file)
    return file


def refuse_link_outside(file: Path) -> None:
    """InputError for a link that leaves its folder, but for one into the Hub's cache.

    Somebody else's folder could otherwise make a file of this machine part of what is written.
    """
    home, real = file.parent.resolve(), file.resolve()
    cache = home.parent.parent / "blobs"  # models--org--name/snapshots/REVISION
    if real.parent != home and real.parent != cache:
        raise InputError(f"{file}: links to {real}, outside the folder", hint="copy the file here")


def _is_file(file: Path) -> bool:
    """Without the error that a name too long, or one with a null character, would raise."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def _open(file: Path) -> Any:
    if not os.access(file, os.R_OK):
        raise InputError(f"{file}: no permission to read")
    try:
        return safe_open(file, framework="pt", backend="pread")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated or damaged: {error}", hint=AGAIN) from None


def _info(file: Path, shard: Any, name: str) -> TensorInfo:
    header = shard.get_slice(name)
    kind = header.get_dtype()
    if kind not in DTYPES:
        raise InputError(f"{file}: `{name}` has type {kind}, which is not known", hint=AGAIN)
    return TensorInfo(tuple(header.get_shape()), DTYPES[kind], file)
