"""Where a model runs and how its next token is chosen. Cheap to import: no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from mindpress.engine.typed import check_types
from mindpress.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float16", "bfloat16", "float32"]
QuantPolicy = Literal[0, 4, 8]
KernelName = Literal["auto", "triton", "cpu", "cpu-int8", "reference"]
ModelFormat = Literal["hf", "awq", "gptq", "compressed-tensors", "turbomind"]
# More than this many no machine has; the system refuses some tens of thousands by a crash.
MOST_THREADS = 1024
POLICIES: tuple[QuantPolicy, ...] = (0, 4, 8)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Device, compute dtype, CPU threads, bits of the cache, and kernels for 4-bit weights.

    None leaves the threads to torch, and the cache (0: floats, 4, 8) to the model's workspace.
    `auto` takes CUDA where there is one. On CUDA the dtype is then the checkpoint's; on the CPU it
    is float32, because 16-bit matrix products are slow on most CPUs.

    The rest is for many sequences at once: at most `max_batch_size` run together, each of at most
    `session_len` tokens (None: the model's context). Their cache takes `cache_max_entry_count` of
    the memory that is free when the weights are loaded, or `cache_memory` bytes. Prompts are read
    `max_prefill_token_num` tokens at a time. `rope_scaling_factor` above 1 lengthens the context by
    dynamic NTK scaling, `model_format` refuses another one, `tp` is over how many processes the
    model is split.
    """

    device: Device = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None
    quant_policy: QuantPolicy | None = None
    kernels: KernelName = "auto"
    max_batch_size: int = 128
    session_len: int | None = None
    cache_max_entry_count: float = 0.8
    cache_memory: int | None = None
    max_prefill_token_num: int = 512
    rope_scaling_factor: float | None = None
    model_format: ModelFormat | None = None
    tp: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        at_least_one = {
            "--threads": self.threads,
            "--max-batch-size": self.max_batch_size,
            "--session-len": self.session_len,
            "--cache-memory": self.cache_memory,
            "--max-prefill-token-num": self.max_prefill_token_num,
            "tp": self.tp,
        }
        for flag, value in at_least_one.items():
            if value is not None:
                _check(flag, value, value >= 1, "1 or more")
        threads = self.threads or 1
        _check("--threads", threads, threads <= MOST_THREADS, f"{MOST_THREADS} or fewer")
        share = self.cache_max_entry_count
        _check("--cache-max-entry-count", share, 0 < share < 1, "above 0 and below 1")
        if self.rope_scaling_factor is not None:
            factor = self.rope_scaling_factor
            _check("rope_scaling_factor", factor, 1 <= factor < 1e6, "1 or more")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one token is drawn. Temperature 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0 are off."""

    temperature: int | float = 0.8
    top_k: int = 40
    top_p: int | float = 0.95
    repetition_penalty: int | float = 1.0
    min_p: int | float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        _check("--temperature", self.temperature, 0 <= self.temperature < 1e4, "0 or more")
        _check("--top-k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check("--top-p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")
        _check("--min-p", self.min_p, 0 <= self.min_p <= 1, "0 (off) or more, at most 1")
        penalty = self.repetition_penalty
        _check("--repetition-penalty", penalty, 0 < penalty < 1e4, "above 0, for example 1.1")

    @property
    def penalizes(self) -> bool:
        """Whether tokens of the text so far change the logits."""
        return self.repetition_penalty != 1


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What the user asks of an answer. A None of the sampling fields leaves it to the model's
    generation_config.json, and to the defaults of `Sampling` where that says nothing.

    `stop` are texts that end the answer; they are not part of it. `logprobs` asks for the log
    probabilities of the chosen token and of so many of the most likely ones; `n` for so many
    answers to each prompt, the seed of answer i being `seed` + i.
    """

    max_new_tokens: int = 512
    temperature: int | float | None = None
    top_k: int | None = None
    top_p: int | float | None = None
    repetition_penalty: int | float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_p: int | float | None = None
    logprobs: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        _check("--max-new-tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more")
        _check("n", self.n, self.n >= 1, "1 answer or more")
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, 0 <= self.logprobs <= 20, "0 to 20")
        if self.seed is not None:
            _check("--seed", self.seed, 0 <= self.seed < 2**63, "0 or more, below 2^63")
        if "" in self.stop:
            raise ConfigError("--stop: an empty text would end every answer at once")
        self.sampling()

    def sampling(self, defaults: Mapping[str, int | float] | None = None) -> Sampling:
        """The fields that are set, and `defaults` (the model's own) for the others."""
        chosen = dict(defaults or {})
        for field in fields(Sampling):
            value = getattr(self, field.name)
            if value is not None:
                chosen[field.name] = value
        return Sampling(**chosen)  # pyright: ignore[reportArgumentType]


def quant_policy_of(value: int | None) -> QuantPolicy | None:
    """The value of --quant-policy, or ConfigError."""
    for known in POLICIES:
        if value == known:
            return known
    if value is None:
        return None
    raise ConfigError(f"--quant-policy {value}: not known", hint="use 8, 4, or 0 for floats")


def _check(flag: str, value: object, fine: bool, expected: str) -> None:
    if not fine:
        raise ConfigError(f"{flag} {value}: must be {expected}")
