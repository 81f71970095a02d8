"""What a scheduler decided -> the tensors of one forward."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from mindpress.engine.paged import Places
from mindpress.engine.rotary import Rotary, Span
from mindpress.engine.scheduler import Part, Step
from mindpress.kernels.cache_attention.paged import PagedBatch


@dataclass(frozen=True, slots=True)
class StepRows:
    """Tokens of all parts of a step one after the other; `asked` are the rows that want logits."""

    ids: Int64[Tensor, " rows"]
    places: Places
    asked: Int64[Tensor, " asked"]


def rows_of(step: Step, rotary: Rotary, page_tokens: int, device: torch.device) -> StepRows:
    """Computed on the CPU and copied to the device, which is not waited for."""
    parts = step.parts
    counts = [part.count for part in parts]
    starts = torch.tensor([0, *counts]).cumsum(0)
    lengths = [part.begin + part.count for part in parts]
    table = _table(parts, lengths, page_tokens)
    cosines, sines = rotary.rows([_span(part) for part in parts])
    ends = (starts[1:] - 1).tolist()
    asked = [end for part, end in zip(parts, ends, strict=True) if part.wants_logits]
    slots = _slots(parts, table, page_tokens)

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    batch = PagedBatch(
        there(starts.int()),
        there(torch.tensor(lengths, dtype=torch.int32)),
        there(table),
        max(counts),
        max(lengths),
    )
    return StepRows(
        there(torch.tensor([token for part in parts for token in _tokens(part)])),
        Places(cosines, sines, there(slots), batch),
        there(torch.tensor(asked, dtype=torch.int64)),
    )


def _tokens(part: Part) -> list[int]:
    return part.request.ids[part.begin : part.begin + part.count]


def _span(part: Part) -> Span:
    request = part.request
    return Span(part.begin, part.count, len(request.prompt), len(request.ids))


def _table(parts: tuple[Part, ...], lengths: list[int], page_tokens: int) -> Tensor:
    used = [-(-length // page_tokens) for length in lengths]
    table = torch.zeros(len(parts), max(used), dtype=torch.int32)
    for row, (part, count) in enumerate(zip(parts, used, strict=True)):
        table[row, :count] = torch.tensor(part.request.pages[:count], dtype=torch.int32)
    return table


def _slots(parts: tuple[Part, ...], table: Tensor, page_tokens: int) -> Int64[Tensor, " rows"]:
    owners = torch.tensor([row for row, part in enumerate(parts) for _ in range(part.count)])
    positions = torch.cat([torch.arange(part.begin, part.begin + part.count) for part in parts])
    return table[owners, positions // page_tokens].long() * page_tokens + positions % page_tokens
