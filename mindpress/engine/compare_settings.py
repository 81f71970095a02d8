"""What a comparison does, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from mindpress.engine.config import Device, Dtype, KernelName
from mindpress.engine.settings import Validation
from mindpress.errors import ConfigError

FEWEST = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measure the models in `paths` side by side, each against the original in `against`.

    All are folders, workspaces or Hub ids. `datasets` are names or text files, read in windows of
    `length` tokens; `limit` scores only the first windows of each. The report goes into the folder
    `output` as compare.json and compare.html, in place of older ones; with
    `overwrite` what an interrupted run has measured is thrown away.
    """

    paths: tuple[str, ...]
    against: str
    datasets: tuple[str, ...] = ("wikitext2", "ptb")
    length: int = 2048
    limit: int | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None
    kernels: KernelName = "auto"
    output: Path = Path("comparison")
    download_dir: Path | None = None
    trust_remote_code: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if len(self.paths) < FEWEST:
            raise ConfigError(
                f"{len(self.paths)} model to compare, 2 or more are needed",
                hint="`mindpress validate` measures one",
            )
        twice = [path for path in self.paths if self.paths.count(path) > 1]
        if twice:
            raise ConfigError(f"{twice[0]}: is given twice")
        self.validation(self.against)  # which refuses the same lengths, limits and datasets

    def validation(self, path: str) -> Validation:
        """How one of the models is measured."""
        return Validation(
            path=path,
            against=self.against,
            datasets=self.datasets,
            length=self.length,
            limit=self.limit,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            kernels=self.kernels,
            caches=False,
            output=self.output,
            download_dir=self.download_dir,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def original(self) -> Validation:
        """How the original runs: with an exact cache, whatever a workspace asks for."""
        return replace(self.validation(self.against), quant_policy=0)
