"""One damaged input: which file, how it is damaged, and what the commands make of it."""

import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.errors import MindpressError
from tests.stress.mutations import (
    mutate_bytes,
    mutate_gzip,
    mutate_json,
    mutate_lines,
    mutate_safetensors,
    mutate_settings,
    mutate_template,
)
from tests.stress.undamaged import CODED, write_inputs
from tests.stress.uses import (
    Facts,
    use_folder,
    use_statistics,
    use_text,
    use_tokenizer,
    use_workspace,
)
from tests.tiny_models import FAMILIES

Mutation = Callable[[bytes, Random], bytes]
INDEX = "model.safetensors.index.json"
WEIGHTS = "triton_models/weights/"
MODEL = {"config.json": mutate_json, "model.safetensors": mutate_safetensors}
TRICKS = 0.02


@dataclass(frozen=True)
class Target:
    """A kind of input: its folder, the files that are damaged, how, and what reads it.

    Of `weight` every so many cases are of this kind.
    """

    folder: str
    files: Mapping[str, Mutation]
    use: Callable[[Path], Facts]
    weight: int = 4


def targets(home: Path) -> dict[str, Target]:
    """All kinds, by name. The inputs are below `home`."""
    tokenizer = load_tokenizer(home / "texts")
    found = {name: Target(name, MODEL, use_folder) for name in FAMILIES}
    found |= {name: Target(name, MODEL, use_folder, 2) for name in CODED}
    found["sharded"] = Target("sharded", _shards(home / "sharded"), use_folder, 6)
    found["tokenizer"] = Target("texts", TOKENIZER, use_tokenizer, 8)
    for name in ("ini", "ini-int4", "yaml"):
        found[name] = Target(name, _workspace_files(home / name), use_workspace, 3)
    statistics = {"statistics.json": mutate_json, "statistics.safetensors": mutate_safetensors}
    found["statistics"] = Target("statistics", statistics, use_statistics, 8)
    for name, mutation in TEXTS.items():
        read = partial(_text, name, tokenizer)
        found[name] = Target("texts", {name: mutation}, read, 6)
    return found


def _text(name: str, tokenizer: object, folder: Path) -> Facts:
    return use_text(folder / name, tokenizer)


TOKENIZER: dict[str, Mutation] = {
    "tokenizer.json": mutate_json,
    "tokenizer_config.json": mutate_json,
    "generation_config.json": mutate_json,
    "config.json": mutate_json,
    "chat_template.jinja": mutate_template,
}
TEXTS: dict[str, Mutation] = {
    "rows.jsonl": mutate_lines,
    "chats.jsonl": mutate_lines,
    "plain.txt": mutate_bytes,
    "rows.jsonl.gz": mutate_gzip,
    "rows.parquet": mutate_bytes,
}


def _shards(folder: Path) -> dict[str, Mutation]:
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    return {INDEX: mutate_json, INDEX + " ": mutate_json} | dict.fromkeys(
        shards, mutate_safetensors
    )


def _workspace_files(folder: Path) -> dict[str, Mutation]:
    """The config as often as all weights, the side file of the cache, and some files of weights."""
    weights = folder / WEIGHTS
    config = next(file.name for file in weights.iterdir() if file.name.startswith("config."))
    chosen = sorted(file.name for file in weights.iterdir() if file.name != config)
    files: dict[str, Mutation] = {f"{WEIGHTS}{config}{' ' * n}": mutate_settings for n in range(8)}
    files |= {f"{WEIGHTS}{name}": mutate_bytes for name in chosen[:: len(chosen) // 6]}
    files |= {f"{WEIGHTS}{name}": mutate_bytes for name in chosen if "past_kv" in name}
    if (folder / "triton_models/mindpress-cache.safetensors").exists():
        side = "triton_models/mindpress-cache.safetensors"
        files |= {side: mutate_safetensors, side + " ": mutate_safetensors}
    return files


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `accepted`, `refused 3`, or a fault, whose text is then in `fault`.

    `seconds` are of the processor, for reading the input; making it is not counted.
    """

    target: str
    file: str
    result: str
    fault: str | None = None
    seconds: float = 0.0


@dataclass
class Cases:
    """Runs cases by their numbers on the inputs below `home`."""

    home: Path
    only: str | None = None
    verbose: bool = False
    kinds: dict[str, Target] = field(init=False)
    facts: dict[str, Facts] = field(init=False, default_factory=dict)
    originals: dict[Path, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        write_inputs(self.home)
        self.kinds = targets(self.home)
        if self.only:
            self.kinds = {n: t for n, t in self.kinds.items() if n.startswith(self.only)}
        for name, kind in self.kinds.items():
            self.facts[name] = kind.use(self.home / kind.folder)
            for file in kind.files:
                path = self.home / kind.folder / file.rstrip(" ")
                self.originals[path] = path.read_bytes()

    def run(self, seed: int) -> Outcome:
        """The case of this number; the files are then as they were."""
        draw = Random(seed)
        name = draw.choices(list(self.kinds), [kind.weight for kind in self.kinds.values()])[0]
        kind = self.kinds[name]
        chosen = draw.choice(list(kind.files))
        file = self.home / kind.folder / chosen.rstrip(" ")
        try:
            if draw.random() < TRICKS:
                draw.choice(PATH_TRICKS)(file)
            else:
                file.write_bytes(kind.files[chosen](self.originals[file], draw))
            # Without the scales of its cache, a workspace is one without scales.
            optional = "cache" in file.name and not os.path.lexists(file)
            begun = time.process_time()
            result, fault = self._judged(name, kind, optional=optional)
            seconds = time.process_time() - begun
        finally:
            self.restore(file)
        return Outcome(name, file.name, result, fault, seconds)

    def restore(self, file: Path) -> None:
        """Write a file as it was."""
        _remove(file)
        file.write_bytes(self.originals[file])

    def _judged(self, name: str, kind: Target, *, optional: bool) -> tuple[str, str | None]:
        try:
            facts = kind.use(self.home / kind.folder)
        except MindpressError as error:
            if self.verbose:
                traceback.print_exception(error)
            return _message_fault(error) or (f"refused {error.exit_code}", None)
        except BaseException as error:  # whatever it is, it is what we look for
            if isinstance(error, KeyboardInterrupt):
                raise
            if self.verbose:
                traceback.print_exception(error)
            return "traceback", _traced(error)
        if facts != self.facts[name] and not optional:
            odd = sorted(
                k for k in {*facts, *self.facts[name]} if facts.get(k) != self.facts[name].get(k)
            )
            return "accepted corruption", f"other tensors than before: {odd[0]}"
        return "accepted", None


def _message_fault(error: MindpressError) -> tuple[str, str] | None:
    """Messages are one line that a terminal holds."""
    text = str(error)
    if len(text) > 2000 or "\n" in text:
        return "bad message", f"{type(error).__name__} of {len(text)} letters: {text[:200]!r}"
    return None


def _traced(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/mindpress/" in f.filename]
    place = ours[-1] if ours else frames[-1]
    where = f"{place.filename.rsplit('/mindpress/', 1)[-1]}:{place.lineno}"
    return f"{type(error).__name__} at {where}"


def _remove(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def _gone(file: Path) -> None:
    file.unlink()


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path) -> None:
    """Reading it waits for somebody to write."""
    file.unlink()
    os.mkfifo(file)


def _linked(file: Path, to: str) -> None:
    file.unlink()
    file.symlink_to(to)


PATH_TRICKS: tuple[Callable[[Path], None], ...] = (
    _gone,
    _folder,
    _pipe,
    partial(_linked, to="/etc/passwd"),
    partial(_linked, to="/dev/zero"),
    partial(_linked, to="/nowhere"),
    lambda file: _linked(file, to=file.name),
    lambda file: file.write_bytes(b""),
)
