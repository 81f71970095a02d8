"""What to convert and how, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindpress.formats.cache_spec import CacheSpec

ModelFormat = Literal["auto", "hf", "awq", "gptq", "compressed-tensors"]
Dtype = Literal["auto", "float16", "bfloat16"]
VERSIONS = ("auto", "0.2", "0.3", "0.5", "0.6")
TENSOR_PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A source (folder or Hub id), a target folder, and the flags of `mindpress convert`.

    `model_name` is the chat template LMDeploy shall use. `tm_version` is the oldest LMDeploy that
    shall read the workspace; `auto` takes 0.5 where the model fits it, else 0.6. `force` writes
    what no engine of that version was built for. `cache` is how the workspace asks engines to keep
    keys and values; None is 16 bits.
    """

    source: str
    target: Path = Path("workspace")
    model_name: str | None = None
    model_format: ModelFormat = "auto"
    tp: int = 1
    group_size: int | None = None
    dtype: Dtype = "auto"
    tm_version: str = "auto"
    force: bool = False
    overwrite: bool = False
    cache: CacheSpec | None = None
