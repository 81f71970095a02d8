"""What a validation does, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass
from pathlib import Path

from mindpress.engine.config import Device, Dtype, EngineConfig, KernelName, QuantPolicy
from mindpress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Validation:
    """Measure the model in `path`, and beside it `against`, usually the one it was made from.

    Both are folders, workspaces or Hub ids; `revision` is that of `path`. `datasets` are names or
    text files. `length` is in tokens per window; `limit` scores only the first windows of each
    dataset. `quant_policy` is the cache of `path`; `against` has one of floats. With `caches` those
    of 16, 8 and 4 bits are compared; `cache_memory` bytes is what their contexts must fit. The
    report goes into the folder `output` as validation.json and validation.html, in
    place of older ones; with `overwrite` what an interrupted run has measured is thrown away.
    """

    path: str
    against: str | None = None
    datasets: tuple[str, ...] = ("wikitext2", "ptb")
    length: int = 2048
    limit: int | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None
    quant_policy: QuantPolicy | None = None
    kernels: KernelName = "auto"
    caches: bool = True
    cache_memory: int = 2**30
    output: Path = Path("validation")
    revision: str | None = None
    download_dir: Path | None = None
    trust_remote_code: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ConfigError(f"--seqlen {self.length}: a window needs 2 tokens or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: must be 1 window or more")
        if not self.datasets:
            raise ConfigError("no dataset to validate on", hint="for example --dataset wikitext2")

    @property
    def engine(self) -> EngineConfig:
        """How the model of `path` runs."""
        return EngineConfig(self.device, self.dtype, self.threads, self.quant_policy, self.kernels)
