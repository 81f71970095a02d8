"""The tensors of quantized linears in a checkpoint, checked against their layout."""

from typing import NoReturn

from mindpress.checkpoint.reader import FLOATS, Checkpoint, refuse_listed, refuse_mixed
from mindpress.errors import InputError
from mindpress.formats.layout import WORDS, Layout, Part
from mindpress.formats.scattered import is_scattered

Sizes = dict[str, tuple[int, int]]
ANOTHER = "the quantization_config is not that of these weights"


def coded_linears(checkpoint: Checkpoint, layout: Layout, linears: Sizes) -> Sizes:
    """Those of `linears` (full name -> outputs, inputs) that are quantized, or should be.

    InputError where the config leaves out a module that has codes, or the other way round.
    """
    coded = {name: size for name, size in linears.items() if _is_coded(checkpoint, layout, name)}
    for name in linears:
        skipped = layout.skips(name)
        if skipped is not None and skipped == (name in coded):
            held, listed = ("codes", "names it") if skipped else ("floats", "does not name it")
            raise InputError(
                f"{checkpoint.folder}: `{name}` is in {held}, and `ignore` in quantization_config"
                f" {listed}",
                hint=ANOTHER,
            )
    return coded


def check_coded(checkpoint: Checkpoint, layout: Layout, coded: Sizes) -> set[str]:
    """The names of all tensors of quantized linears, once each is there as it should be."""
    expected: dict[str, Part] = {}
    for name, size in coded.items():
        own = layout.of(name)
        if not own.holds(*size):
            _refuse_size(checkpoint, own, name, size)
        expected |= {f"{name}.{part}": info for part, info in own.parts(*size).items()}
    needed = {name for name, part in expected.items() if not part.optional}
    there = checkpoint.tensors
    refuse_listed(checkpoint.folder, "tensors are missing", needed - there.keys())
    found = expected.keys() & there.keys()
    for name in sorted(found):
        _check_part(checkpoint, name, expected[name])
    # Biases have the type of the model, scales often float16.
    scales = (n for n in found if expected[n].dtypes != WORDS and not n.endswith(".bias"))
    refuse_mixed(checkpoint, scales)
    return found


def any_scattered(checkpoint: Checkpoint, layout: Layout, coded: Sizes) -> bool:
    """Whether groups of some linear are not neighbouring inputs. Reads every index there is,
    4 bytes for each input; InputError when one is damaged.
    """
    scattered = False
    for name, (_, inputs) in coded.items():
        index = f"{name}.{layout.index}"
        if index in checkpoint:
            groups = inputs // layout.of(name).spec.group_of(inputs)
            place = f"{checkpoint.tensors[index].file}: `{index}`"
            scattered |= is_scattered(checkpoint.tensor(index), groups, place)
    return scattered


def _is_coded(checkpoint: Checkpoint, layout: Layout, name: str) -> bool:
    parts = layout.of(name).parts(1, 1).keys() - {"weight", "bias"}
    if any(f"{name}.{part}" in checkpoint for part in parts):
        return True
    weight = checkpoint.tensors.get(f"{name}.weight")
    return weight is None or weight.dtype not in FLOATS


def _refuse_size(
    checkpoint: Checkpoint, layout: Layout, name: str, size: tuple[int, int]
) -> NoReturn:
    spec = layout.spec
    raise InputError(
        f"{checkpoint.folder}: quantization_config: {spec.bits} bits in groups of"
        f" {spec.group_size} do not divide `{name}` of {list(size)}",
        hint="the quantization_config is of another model",
    )


def _check_part(checkpoint: Checkpoint, name: str, part: Part) -> None:
    info = checkpoint.tensors[name]
    if info.shape != part.shape:
        raise InputError(
            f"{info.file}: `{name}` is {list(info.shape)}, expected {list(part.shape)}",
            hint="bits or group_size in quantization_config are not those of the weights",
        )
    if info.dtype not in part.dtypes:
        wanted = "16 or 32-bit floats" if part.dtypes == FLOATS else str(part.dtypes[0])
        raise InputError(f"{info.file}: `{name}` is {info.dtype}, expected {wanted}")
