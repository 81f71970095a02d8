"""Run a model one decoder block at a time: load a block, feed it, release it.

The mathematics is transformers' own: the model is built on the meta device, a block's tensors
are read from the checkpoint when it is its turn, and what the model passes to its blocks (masks,
rotary positions) is recorded before (block_calls.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mindpress.calib.block_calls import Call, record_calls
from mindpress.calib.key_values import KeyValues
from mindpress.errors import InputError
from mindpress.formats.finite import check_finite, is_finite
from mindpress.formats.fusion import fuse
from mindpress.formats.quantized import QuantizedWeight
from mindpress.models.description import Architecture, Role
from mindpress.models.llama import LLAMA
from mindpress.models.registry import describe
from mindpress.models.shape import ModelShape
from mindpress.models.tensors import block_tensors
from mindpress.sources.folder import ModelFolder

Hidden = Float[Tensor, "samples tokens hidden"]

OVERFLOWS = "the model overflows in float32, too: it is damaged; download it again"


@dataclass(frozen=True, slots=True)
class LiveBlock:
    """A block whose weights are in memory, and what the model passes to it."""

    index: int
    module: nn.Module
    stream: "BlockStream"

    def run(
        self, hidden: Hidden, key_values: KeyValues | None = None, *, widens: bool = True
    ) -> Hidden:
        """The output for a batch of inputs, in the stream's type on its device.

        `key_values` is given the keys, after the rotary embedding, and the values. A batch that
        overflows in float16 is run again `in_float32`, unless it is to be taken as it is.
        """
        out = self._run(hidden, key_values)
        if not widens or self._fits(out):
            return out
        with self.in_float32():
            return self._run(hidden, key_values)

    def inputs_of(self, modules: tuple[str, ...], hidden: Hidden) -> list[Tensor]:
        """What these modules, in the order they run, are fed for a batch of inputs of the block,
        which runs up to the last of them.
        """
        found = self._inputs_of(modules, hidden)
        if self._fits(*found):
            return found
        with self.in_float32():
            return self._inputs_of(modules, hidden)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """While inside, the block computes in float32. Memory: its weights in that type.

        Each batch comes here by itself, so that what it becomes does not depend on those before.
        """
        usual, self.stream.overflowed = self.stream.dtype, True
        try:
            self.module.float()
            self.stream.dtype = torch.float32
            yield
        finally:
            self.stream.dtype = usual
            self.module.to(usual)

    def _run(self, hidden: Hidden, key_values: KeyValues | None = None) -> Hidden:
        x = hidden.to(self.stream.device, self.stream.dtype)
        call = self.stream.call(self.index, x)
        with torch.no_grad():
            out = self.module(x, *call.args, **{**call.kwargs, "past_key_values": key_values})
        return out[0] if isinstance(out, tuple) else out

    def _fits(self, *found: Tensor) -> bool:
        """Whether no more range is called for."""
        return self.stream.dtype != torch.float16 or all(map(is_finite, found))

    def _inputs_of(self, modules: tuple[str, ...], hidden: Hidden) -> list[Tensor]:
        found: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.append(inputs[0])
            if len(found) == len(modules):
                raise _ReachedError

        with ExitStack() as hooks:
            for name in modules:
                module = self.module.get_submodule(name)
                hooks.enter_context(module.register_forward_pre_hook(keep, prepend=True))
            with suppress(_ReachedError):
                self._run(hidden)
        return found

    def copy(self) -> "LiveBlock":
        """The same block with weights of its own."""
        return LiveBlock(self.index, deepcopy(self.module), self.stream)

    def restore(self, names: Iterable[str]) -> None:
        """Put the checkpoint's tensors back in the place of what was put into the module."""
        stored = self.stream.weights(self.index)
        for name in names:
            kind = {"device": self.stream.device, "dtype": self.stream.dtype}
            self.module.get_parameter(name).data = stored[name].to(**kind, copy=True)


class _ReachedError(Exception):
    """A block ran as far as it was to."""


class BlockStream:
    """The decoder blocks of a folder, one live at a time; of an AWQ folder, what codes stand for.

    Peak memory: the embedding while `embed` runs, then one block in `dtype` on `device`.
    """

    def __init__(self, source: ModelFolder, device: torch.device, dtype: torch.dtype) -> None:
        self.source, self.device, self.dtype = source, device, dtype
        self.overflowed = False  # whether the live block passed the range of float16
        runs_as = source.architecture.runs_as
        self.runs: Architecture = describe(runs_as) if runs_as else source.architecture
        self._decoder = _decoder_on_meta(source)
        self._decoder.rotary_emb = type(self._decoder.rotary_emb)(self._decoder.config).to(device)
        self._calls: dict[tuple[int, int, torch.dtype], list[Call]] = {}

    def __len__(self) -> int:
        return self.source.shape.layers

    def embed(self, tokens: Int[Tensor, "samples tokens"], into: Hidden) -> None:
        """Write the input of the first block to `into` (rounded to its dtype)."""
        table = self.source.embedding()
        scale = torch.tensor(1.0)
        if self.source.architecture.scales_embedding:
            scale = torch.tensor(self.source.shape.hidden**0.5)
        for row, ids in enumerate(tokens):
            embedded = nn.functional.embedding(ids, table).to(self.dtype)
            into[row] = embedded * scale.to(self.dtype)

    @contextmanager
    def block(self, index: int) -> Iterator[LiveBlock]:
        """Block `index` with its weights, which are released on leaving.

        NumericError when a weight is NaN or infinite.
        """
        block = self._decoder.layers[index]
        block.load_state_dict(self._state(index), assign=True)
        block.requires_grad_(False)
        try:
            yield LiveBlock(index, block, self)
        finally:
            block.to("meta")
            self.overflowed = False

    def weights(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of a block under the names of the class that runs it.

        They are as stored, but float32 where they are what codes stand for. Each is read when it
        is asked for, and not kept.
        """
        prefix, reads = self.source.architecture.layer(index), self.source.architecture
        if reads.block == self.runs.block:
            names = block_tensors(reads, self.source.shape)
            return _Unread(self.source, prefix, tuple(names))
        return _renamed(self.source, index, self.runs)

    def _state(self, index: int) -> dict[str, Tensor]:
        state, prefix = {}, self.source.architecture.layer(index)
        for name, tensor in self.weights(index).items():
            check_finite(tensor, f"{self.source.folder}: `{prefix}.{name}`")
            state[name] = tensor.to(self.device, self.dtype)
        return state

    def call(self, index: int, hidden: Hidden) -> Call:
        """What the model passes to block `index` beside hidden states of this size."""
        size = (hidden.shape[0], hidden.shape[1], hidden.dtype)
        if size not in self._calls:
            try:
                self._calls[size] = record_calls(self._decoder, hidden)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                raise _refused(self.source, error) from None
        return self._calls[size][index]


class _Unread(Mapping[str, Tensor]):
    """Tensors of a block that are read from the checkpoint at every look."""

    def __init__(self, source: ModelFolder, prefix: str, names: tuple[str, ...]) -> None:
        self._source, self._prefix, self._names = source, prefix, names

    def __getitem__(self, name: str) -> Tensor:
        whole = f"{self._prefix}.{name}"
        if whole in self._source.checkpoint:
            return self._source.checkpoint.tensor(whole)
        return _floats(self._source.linear(whole.removesuffix(".weight")).weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _renamed(source: ModelFolder, index: int, runs: Architecture) -> dict[str, Tensor]:
    """Tensors of a block of a family with remote code, under the names of the class it runs as."""
    state: dict[str, Tensor] = {}
    roles = source.linears(index)
    for linear in runs.block.linears:
        weights: dict[Role, Tensor] = {}
        biases: dict[Role, Tensor] = {}
        for role in linear.roles:
            weights[role], bias = _floats(roles[role].weight), roles[role].bias
            if bias is not None:
                biases[role] = bias
        state[f"{linear.name}.weight"] = fuse(weights, linear, source.shape)
        if biases:
            state[f"{linear.name}.bias"] = fuse(biases, linear, source.shape)
    for field, norm in source.norms(index).items():
        state[f"{getattr(runs.block, field)}.weight"] = norm
    return state


def _floats(weight: Tensor | QuantizedWeight) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.dequantize(torch.float32)


def _decoder_on_meta(source: ModelFolder) -> Any:
    """The decoder of the transformers class, without weights. InputError when it wants none."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
    from transformers.initialization import no_init_weights

    try:
        if source.architecture.runs_as:
            config = LlamaConfig(**llama_fields(source.shape))
        else:
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # noqa: BLE001 - its checks of a config raise many kinds
        raise _refused(source, error) from None
    named, found = source.architecture.hf_class, type(model).__name__
    # InternLM3 is no class of transformers, which runs it as Llama.
    if found != (named if hasattr(transformers, named) else LLAMA.hf_class):
        raise InputError(
            f"{source.folder / 'config.json'}: `model_type` is that of {found},"
            f" `architectures` names {named}",
            hint="correct `model_type`, or download the file again",
        )
    return model.get_decoder().eval()


def _refused(source: ModelFolder, error: Exception) -> InputError:
    return InputError(
        f"{source.folder / 'config.json'}: transformers refuses it: {error}",
        hint="correct the value, or download the file again",
    )


def llama_fields(shape: ModelShape) -> dict[str, Any]:
    """Arguments of a LlamaConfig that computes what `shape` describes."""
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_length,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": shape.activation,
        "attention_bias": bool(shape.biases.query_key_value),
        "mlp_bias": bool(shape.biases.mlp),
        "tie_word_embeddings": shape.tied,
        "rope_parameters": {
            **shape.rope.parameters,
            "rope_type": shape.rope.kind,
            "rope_theta": shape.rope.theta,
        },
    }
