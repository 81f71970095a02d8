"""What quantizing a model takes of memory at most, beside the bare process, in bytes."""

from math import prod

from mindpress.lite.recipe import Recipe
from mindpress.lite.row_sample import ROWS_KEPT
from mindpress.lite.sensitivity import MEASURED_TOKENS
from mindpress.models.shape import ModelShape
from mindpress.models.tensors import block_tensors
from mindpress.sources.folder import ModelFolder

BYTES_FLOAT32 = 4
STORED_BYTES = {"float16": 2, "bfloat16": 2}
SITES = 4
# X^T X and the factor of its inverse; what observes the original path beside it, the drift.
SITE_SQUARES = {"original": 2, "quantized": 2, "asymmetric": 3}


def peak_memory(source: ModelFolder, recipe: Recipe, length: int) -> int:
    """Of the moment that takes most: one block in float32 while a candidate is tried, or a site
    while it is compensated; with X^T X, a batch and the hidden states.
    """
    shape, calibration = source.shape, recipe.calibration
    block = sum(map(prod, block_tensors(source.architecture, shape).values()))
    hessians = 2 * shape.hidden**2 + (shape.heads * shape.head_dim) ** 2 + shape.inner**2
    # Activations, and what each site is fed, which is counted once the batch is complete.
    batch = calibration.batch_size * length * (5 * shape.hidden + 4 * shape.inner)
    largest = max(shape.inner * shape.hidden, 1)
    table = shape.vocab * shape.hidden * source.embedding_type.itemsize
    trial = BYTES_FLOAT32 * (block + batch + 3 * largest) + 2 * block
    if recipe.algorithm == "smooth_quant":
        rows = 2 * shape.hidden + shape.heads * shape.head_dim + shape.inner
        trial += BYTES_FLOAT32 * ROWS_KEPT * rows
    elif recipe.searches or recipe.path == "original":
        trial += BYTES_FLOAT32 * hessians
    measuring = 0
    if recipe.target_bpw is not None:
        measuring = max(BYTES_FLOAT32 * block, table) + _measuring_bytes(shape)
    if recipe.rounding == "nearest":
        most = max(trial, table, measuring)
        return most + states_bytes(source, recipe, length)
    stored = block * (
        STORED_BYTES.get(shape.dtype, BYTES_FLOAT32) if recipe.path != "original" else 0
    )
    squares = SITE_SQUARES[recipe.path] * max(shape.hidden, shape.inner) ** 2
    site = block + BYTES_FLOAT32 * (squares + 2 * largest + batch)
    most = max(trial + stored, site + stored, table, measuring)
    return most + states_bytes(source, recipe, length)


def _measuring_bytes(shape: ModelShape) -> int:
    """Of the hidden states that tell how sensitive every site is, and of predictions: two, and what
    their divergence is computed with.
    """
    states = (2 + SITES * shape.layers) * shape.hidden
    return BYTES_FLOAT32 * MEASURED_TOKENS * (states + 5 * shape.vocab)


def states_bytes(source: ModelFolder, recipe: Recipe, length: int) -> int:
    """Of the original path or of the quantized one; asymmetric calibration holds both."""
    sets = 2 if recipe.path == "asymmetric" else 1
    each = source.shape.hidden * source.embedding_type.itemsize
    return sets * recipe.calibration.samples * length * each
