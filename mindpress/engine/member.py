"""A process that computes its part of every step until it is told to end; `team.py` starts it."""

import sys
from pathlib import Path

import torch

from mindpress.device import choose_device
from mindpress.engine.cache_plan import PagePlace
from mindpress.engine.loader import Share, load_decoder
from mindpress.engine.paged import PagedMixing
from mindpress.engine.team import Membership, add, hear, join
from mindpress.errors import MindpressError
from mindpress.kernels.paged import paged_operations
from mindpress.sources.opening import open_source


@torch.inference_mode()
def work(member: Membership) -> None:
    """Load, take the pages the first process decided on, then one forward for every message."""
    join(member)
    share = Share(member.rank, member.of, add)
    decoder = load_decoder(open_source(Path(member.path)), member.config, share=share)
    operations = paged_operations(decoder.kernels)
    place = PagePlace(choose_device(member.config.device), operations.by_channel)
    pages = decoder.cache_plan.new_pages(decoder.shape, hear(), decoder.dtype, place)
    while (rows := hear()) is not None:
        decoder.forward(rows.ids, PagedMixing(decoder.shape, pages, operations, rows.places))


def main() -> None:
    """Errors go to stderr as one line, which the first process shows."""
    try:
        work(Membership.load(sys.stdin.read()))
    except MindpressError as error:
        sys.exit(str(error))
    except RuntimeError as error:
        sys.exit(str(error).strip().splitlines()[0])


if __name__ == "__main__":
    main()
