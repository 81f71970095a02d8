"""What a measurement of speed does, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mindpress.engine.config import EngineConfig
from mindpress.errors import ConfigError

Kind = Literal["throughput", "latency"]
# Before the path of `against`: run it by transformers' own `generate`.
TRANSFORMERS = "hf:"


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests, of which `at_once` are under way until no more are left."""

    requests: int
    at_once: int

    def __post_init__(self) -> None:
        if self.requests < 1 or self.at_once < 1:
            raise ConfigError(f"{self.requests} requests, {self.at_once} at once: must be positive")


@dataclass(frozen=True, slots=True)
class Bench:
    """Measure the speed of the model in `path`, and in turn with it that of `against`.

    Both are folders, workspaces or Hub ids; `against` may be `hf:PATH` for a plain run by
    transformers. Every load is measured by itself. Prompts have `input_len` tokens and answers
    `output_len`; with `range_ratio` r both are spread evenly between (1 - r) and (1 + r) times
    that. Prompts are random tokens, or pieces of `dataset`, by `seed`. Each load is run `warmup`
    times unmeasured and `repeats` times measured. `engine` holds for both models; without its
    session_len a sequence has room for the longest request. With `output` the report is saved there
    as bench.json and bench.html. `command` is kept in the report.
    """

    kind: Kind
    path: str
    loads: tuple[Load, ...]
    against: str | None = None
    input_len: int = 256
    output_len: int = 64
    range_ratio: int | float = 0.0
    dataset: str | None = None
    warmup: int = 1
    repeats: int = 3
    seed: int = 0
    engine: EngineConfig = field(default_factory=EngineConfig)
    output: Path | None = None
    revision: str | None = None
    download_dir: Path | None = None
    trust_remote_code: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        least = {
            "--input-len": (self.input_len, 1),
            "--output-len": (self.output_len, 1),
            "--repeats": (self.repeats, 1),
            "--warmup": (self.warmup, 0),
            "--seed": (self.seed, 0),
        }
        for flag, (value, bound) in least.items():
            if value < bound:
                raise ConfigError(f"{flag} {value}: must be {bound} or more")
        if not 0 <= self.range_ratio < 1:
            raise ConfigError(f"--range-ratio {self.range_ratio}: must be 0 or more, below 1")
        if not self.loads:
            raise ConfigError("nothing to measure", hint="for example --batch-sizes 1,4")
        self._check_engine()

    @property
    def longest(self) -> int:
        """Tokens of the longest request there can be, its answer included."""
        return sum(highest for _, highest in (self.prompt_range, self.answer_range))

    @property
    def prompt_range(self) -> tuple[int, int]:
        """Fewest and most tokens of a prompt."""
        return _spread(self.input_len, self.range_ratio)

    @property
    def answer_range(self) -> tuple[int, int]:
        """Fewest and most tokens of an answer."""
        return _spread(self.output_len, self.range_ratio)

    @property
    def running(self) -> EngineConfig:
        """`engine`, its sequences no longer than what is measured needs."""
        if self.engine.session_len is not None:
            return self.engine
        return replace(self.engine, session_len=self.longest)

    def check_room(self, room: int, whose: str) -> None:
        """ConfigError naming the flags when the longest request has no room."""
        if self.longest <= room:
            return
        spread = f", --range-ratio {self.range_ratio}" if self.range_ratio else ""
        raise ConfigError(
            f"--input-len {self.input_len}, --output-len {self.output_len}{spread}: up to"
            f" {self.longest} tokens, {whose} holds {room}",
            hint="lower one of them",
        )

    def _check_engine(self) -> None:
        session, most = self.engine.session_len, max(load.at_once for load in self.loads)
        if session is not None:
            self.check_room(session, f"--session-len {session}")
        for flag, value in (
            ("--max-batch-size", self.engine.max_batch_size),
            ("--max-prefill-token-num", self.engine.max_prefill_token_num),
        ):
            if value < most:
                raise ConfigError(
                    f"{flag} {value}: fewer than the {most} requests to run at once",
                    hint=f"raise it to {most}, or leave it out",
                )


def _spread(length: int, ratio: int | float) -> tuple[int, int]:
    return max(1, round(length * (1 - ratio))), round(length * (1 + ratio))
