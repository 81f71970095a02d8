"""What every run over a model reads: calibration tokens, weights, hidden states before a block."""

from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from mindpress.calib.datasets import calibration_tokens
from mindpress.calib.hidden import hidden_states
from mindpress.calib.stream import BlockStream
from mindpress.checkpoint.companions import companions, load_tokenizer
from mindpress.checkpoint.reader import FLOATS
from mindpress.checkpoint.verify import verify_weights
from mindpress.errors import InputError
from mindpress.events import Advanced, Listener, Started
from mindpress.formats.finite import check_finite
from mindpress.lite.recipe import Calibration
from mindpress.sources.folder import ModelFolder

SPILL = "hidden-states.bin"

Tokens = Int[Tensor, "samples tokens"]


def draw_tokens(
    source: ModelFolder,
    wanted: Calibration,
    length: int,
    listener: Listener,
    *,
    trust_remote_code: bool,
) -> Tokens:
    """The calibration samples, each of `length` tokens; raises what is wrong with the tokenizer
    or the text.
    """
    tokenizer = load_tokenizer(source.folder, trust_remote_code=trust_remote_code)
    tokens = calibration_tokens(
        wanted.dataset, tokenizer, wanted.samples, length, wanted.seed, listener
    )
    if int(tokens.max()) >= source.shape.vocab:
        raise InputError(
            f"{source.folder}: the tokenizer has token {int(tokens.max())}, the model only"
            f" {source.shape.vocab}",
            hint="copy the tokenizer files of this very model into the folder",
        )
    return tokens


def check_weights(source: ModelFolder, listener: Listener) -> None:
    """Read every weight once, so that a damaged one is found before the long work; compared with
    its hash, where one is known.
    """
    checkpoint = source.checkpoint
    verify_weights(source.folder, listener)
    listener(Started("check", len(checkpoint.tensors), "tensor"))
    for done, (name, info) in enumerate(checkpoint.tensors.items(), 1):
        if info.dtype in FLOATS:
            check_finite(checkpoint.tensor(name), f"{info.file}: `{name}`")
        listener(Advanced(done, name))


def input_files(source: ModelFolder) -> list[Path]:
    """The files whose change makes another run of it."""
    shards = {info.file for info in source.checkpoint.tensors.values()}
    return [source.folder / "config.json", *companions(source.folder), *shards]


def embedded(
    stream: BlockStream, tokens: Tokens, folder: Path
) -> Float[Tensor, "samples tokens hidden"]:
    """The hidden states before the first block, in the type of the embedding; in a file of
    `folder` when memory is short.
    """
    samples, length = tokens.shape
    size = (samples, length, stream.source.shape.hidden)
    hidden = hidden_states(size, stream.source.embedding_type, folder / SPILL)
    stream.embed(tokens, hidden)
    return hidden


def hidden_bytes(source: ModelFolder, tokens: Tokens) -> int:
    """What the hidden states of all samples take."""
    return tokens.numel() * source.shape.hidden * source.embedding_type.itemsize
