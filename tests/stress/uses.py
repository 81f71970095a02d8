"""What commands do with inputs, each up to the point where all of the input was read.

Every function gives the facts of what it read: names, shapes and types of all tensors. Damage that
is accepted must leave them as they were.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindpress.calib.datasets import calibration_tokens, read_text
from mindpress.calib.statistics_file import load_statistics
from mindpress.calib.stream import BlockStream
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.checkpoint.mapped import MappedCheckpoint
from mindpress.convert.planning import plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.convert.tokens import special_ids
from mindpress.convert.weights import WeightFiles
from mindpress.engine.config import EngineConfig
from mindpress.engine.defaults import read_defaults
from mindpress.engine.loader import load_decoder
from mindpress.engine.template import encode_messages
from mindpress.errors import MindpressError
from mindpress.events import ignore
from mindpress.formats.quantized import QuantizedWeight
from mindpress.formats.turbomind_text import read_config, write_config
from mindpress.lite.inputs import check_weights
from mindpress.lite.plan import plan_quantization
from mindpress.lite.recipe import Recipe
from mindpress.sources.cache_file import read_cache_scales
from mindpress.sources.folder import ModelFolder, open_folder
from mindpress.sources.inspect import inspect_path
from mindpress.sources.opening import open_source
from mindpress.sources.signature import cache_signature
from mindpress.sources.source import ModelSource
from mindpress.sources.workspace import open_workspace

Facts = Mapping[str, object]
SAMPLES, LENGTH = 4, 16
MESSAGES = [{"role": "user", "content": "The river was wide. 😀"}]
CPU = torch.device("cpu")
IDS = torch.tensor([[1, 5, 7]])


def use_folder(folder: Path) -> Facts:
    """inspect, then what auto-awq, convert and chat read of a model folder."""
    inspect_path(folder)
    source = open_source(folder)
    facts = dict(_read(source))
    cache_signature(source)
    for use in (_quantized, _converted, _run):
        use(source)
    return facts


def _quantized(source: ModelSource) -> None:
    """As `lite auto-awq` does before the first block; it takes floats only."""
    if not isinstance(source, ModelFolder) or source.layout is not None:
        return
    plan_quantization(Recipe(str(source.folder), group_size=32))
    check_weights(source, ignore)
    stream = BlockStream(source, CPU, torch.float32)
    with stream.block(0) as block:
        block.run(torch.zeros(1, LENGTH, source.shape.hidden))


def _converted(source: ModelSource) -> None:
    """As `convert` does, but for the writing."""
    if not isinstance(source, ModelFolder):
        return
    try:
        target = source.folder.with_name("unwritten")
        plan = plan_conversion(Conversion(str(source.folder), target, force=True))
    except MindpressError:
        return  # TurboMind has no such model
    read_config(write_config(plan.config, plan.dialect), plan.dialect.layout)
    mapped = replace(plan.folder, checkpoint=MappedCheckpoint(source.folder))
    files = WeightFiles(mapped, plan.config)
    found = dict(files.outer())
    for layer in range(plan.config.layers):
        found |= dict(files.layer(layer))
    sizes = {name: data.numel() * data.element_size() for name, data in found.items()}
    if sizes != plan.files:
        raise AssertionError(f"{sizes} written, {plan.files} planned")


def _run(source: ModelSource) -> None:
    """As chat and validate do: every weight is loaded and a token computed."""
    decoder = load_decoder(source, EngineConfig(device="cpu"))
    decoder.logits(decoder.hidden(IDS, decoder.new_cache()))


def use_tokenizer(folder: Path) -> Facts:
    """chat, validate and convert before a weight is read."""
    tokenizer = load_tokenizer(folder)
    read_defaults(folder, tokenizer)
    special_ids(open_folder(folder))
    calibration_tokens(str(folder / "plain.txt"), tokenizer, 2, LENGTH, 0)
    tokenizer.decode(encode_messages(tokenizer, MESSAGES))
    return {}


def use_workspace(folder: Path) -> Facts:
    """inspect, kv-qparams, chat."""
    inspect_path(folder)
    workspace = open_workspace(folder)
    facts = dict(_read(workspace))
    scales = read_cache_scales(workspace)
    if scales is not None:
        for name, grid in (("keys", scales.keys), ("values", scales.values)):
            facts[name] = None if grid is None else _told(grid.scale)
    _run(workspace)
    return facts


def use_statistics(folder: Path) -> Facts:
    """kv-qparams and convert --calib."""
    found = load_statistics(folder)
    ranges, facts = found.ranges, dict[str, object]()
    facts["keys"], facts["values"] = _told(ranges.keys.low), _told(ranges.values.low)
    for name in found.header.linears:
        for side in ("input", "output"):
            tensors = found.linear(0, name, side).items()
            facts |= {f"{name}.{side}.{part}": _told(tensor) for part, tensor in tensors}
    return facts | {"origin": found.header.origin.keys(), "tokens": found.header.tokens > 0}


def use_text(file: Path, tokenizer: Any) -> Facts:
    """The calibration text of every `lite` command, the dataset of validate."""
    tokens = calibration_tokens(str(file), tokenizer, SAMPLES, LENGTH, 0)
    read_text(str(file), "test")
    return {"tokens": _told(tokens)}


def _read(source: ModelSource) -> Iterator[tuple[str, object]]:
    """Every tensor of a model; linears in codes must have codes that their spec allows."""
    for name in ("embedding", "final_norm", "head"):
        yield name, _told(getattr(source, name)())
    for layer in range(source.shape.layers):
        for field, tensor in source.norms(layer).items():
            yield f"{layer}.{field}", _told(tensor)
        for role, linear in source.linears(layer).items():
            yield f"{layer}.{role}", _told(linear.weight)
            yield f"{layer}.{role}.bias", None if linear.bias is None else _told(linear.bias)


def _told(tensor: Tensor | QuantizedWeight) -> object:
    if isinstance(tensor, QuantizedWeight):
        if int(tensor.codes.max()) > tensor.spec.max_code:
            raise AssertionError("codes that their spec does not allow")
        # Whether codes are symmetric is a word of the config: their zeros are read either way.
        width = tensor.spec.bits, tensor.spec.group_size
        return width, _told(tensor.codes), _told(tensor.scales), _told(tensor.zeros)
    return tuple(tensor.shape), tensor.dtype
