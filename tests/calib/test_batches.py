"""Work in batches that become smaller when memory runs out."""

import pytest
import torch

from mindpress.calib.batches import Batches
from mindpress.errors import ResourceError


def work_with_room_for(room, done):
    def work(some):
        if some.stop - some.start > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        done.append((some.start, some.stop))
        return some.start

    return work


@pytest.mark.parametrize(("room", "sizes", "told"), [(8, 8, 0), (4, 4, 1), (1, 1, 3)])
def test_a_batch_without_room_is_halved_and_none_is_lost(room, sizes, told):
    words, done = [], []
    batches = Batches(8, words.append, hint="none")
    found = list(batches.run(11, work_with_room_for(room, done)))
    assert [slice(*some) for some in done] == [some for some, _ in found]
    assert [i for some, _ in found for i in range(some.start, some.stop)] == list(range(11))
    assert batches.size == sizes
    assert len(words) == told
    assert list(batches.run(2, work_with_room_for(room, []))), "it stays so"
    assert len(words) == told


def test_what_is_told():
    words = []
    list(Batches(6, words.append, unit="window", hint="none").run(6, work_with_room_for(3, [])))
    assert words == ["memory ran out with 6 windows at once: from now on 3 are computed at a time"]


def test_no_room_for_a_single_one():
    batches = Batches(2, print, hint="use a smaller --calib-seqlen")
    with pytest.raises(
        ResourceError, match=r"one sample at a time: CUDA out of .* 2 GiB$"
    ) as caught:
        list(batches.run(2, work_with_room_for(0, [])))
    assert "--calib-seqlen" in caught.value.hint


def test_a_batch_that_failed_is_let_go_before_the_next_try():
    held = []

    class Tensor:
        def __del__(self):
            held.remove(self.name)

    def work(some):
        assert held == []
        one = Tensor()
        one.name = some.stop
        held.append(some.stop)
        if some.stop - some.start > 1:
            raise torch.OutOfMemoryError("none left")

    list(Batches(4, lambda _: None, hint="none").run(4, work))
