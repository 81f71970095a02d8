"""The fastest tiles for the weights of a model on this very GPU."""

from mindpress.engine.decoder import Decoder
from mindpress.engine.linear import PackedLinear, SummedLinear
from mindpress.events import Listener, Note, ignore
from mindpress.kernels.matmul_w4a16.gpu_product import TritonProduct, share_room
from mindpress.kernels.matmul_w4a16.regimes import TileConfig
from mindpress.kernels.tuning import known_table
from mindpress.kernels.tuning.products import (
    BUCKETS,
    ProductClock,
    ProductShape,
    key_of,
    shapes_of,
    wanted,
)
from mindpress.kernels.tuning.tune import Clock, tune_missing


def use_tuned(
    decoder: Decoder, listener: Listener = ignore, clock: Clock[TileConfig] | None = None
) -> None:
    """Give every product of 4-bit weights the tiles that the tables know for its shape.

    What they do not know is timed once, which the listener hears, and kept for this user. All
    products share one workspace afterwards.
    """
    products = _products(decoder)
    shapes = shapes_of(product.weight for product in products)
    table = known_table()
    clock = clock or ProductClock(decoder.device)
    tune_missing(table, wanted(shapes, decoder.device), clock, listener)
    if table.problem:
        listener(Note(f"tuned tiles are not kept: {table.problem}", "warning"))
    for product in products:
        one = product.weight
        shape = ProductShape(one.outputs, one.inputs, one.group_size, one.dtype)
        for rows in BUCKETS:
            config = table.get(key_of(shape, rows, decoder.device), TileConfig)
            if config is not None:
                product.tiles.configs[rows] = config
    share_room(products, max(BUCKETS))


def _products(decoder: Decoder) -> list[TritonProduct]:
    own = [one.own if isinstance(one, SummedLinear) else one for one in decoder.linears]
    weights = [one.weight for one in own if isinstance(one, PackedLinear)]
    return [weight for weight in weights if isinstance(weight, TritonProduct)]
