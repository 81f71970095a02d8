"""Which requests a step takes, in what order and with how many tokens."""

import pytest
from checked_scheduler import added, counts, scheduler_of, stepped

from mindpress.engine.request import Request
from mindpress.errors import ConfigError


@pytest.mark.parametrize(
    ("prompt", "words", "hint"),
    [
        ([], "empty", "write"),
        ([1] * 65, r"65 tokens.* 64", "--session-len"),
        ([1] * 40, r"40 tokens.* one more.* 40", "--cache-max-entry-count"),
    ],
)
def test_what_could_never_run_is_refused_and_told_what_to_change(prompt, words, hint):
    scheduler = scheduler_of(pages=10)
    with pytest.raises(ConfigError, match=words) as caught:
        added(scheduler, prompt)
    assert hint in caught.value.hint
    assert scheduler.idle
    added(scheduler, [1] * 39)


def test_a_prompt_that_fills_the_session_has_one_token():
    scheduler = scheduler_of(pages=16, rows=64, session=64)
    (request,) = added(scheduler, [1] * 64)
    stepped(scheduler)
    assert (request.finish, request.new_tokens) == ("context", 1)


def test_sequences_that_decode_come_first_then_prompts_in_order():
    scheduler = scheduler_of(rows=16)
    added(scheduler, [1] * 3, [2] * 4)
    assert counts(stepped(scheduler)) == {0: 3, 1: 4}
    late = [Request("late", (3,) * 20, 9), Request("later", (4,) * 20, 9)]
    for request in late:
        scheduler.add(request)
    assert counts(stepped(scheduler)) == {0: 1, 1: 1, "late": 14}
    step = stepped(scheduler)
    assert list(counts(step).items()) == [(0, 1), (1, 1), ("late", 6), ("later", 8)]
    assert [part.wants_logits for part in step.parts] == [True, True, True, False]


def test_a_long_prompt_is_read_in_chunks_while_others_decode():
    scheduler = scheduler_of(rows=8)
    (short,) = added(scheduler, [1, 2])
    stepped(scheduler)
    long = Request("long", tuple(range(30)), 9)
    scheduler.add(long)
    seen = []
    while long.new_tokens == 0:
        before = short.new_tokens
        (part,) = (part for part in stepped(scheduler).parts if part.request is long)
        assert short.new_tokens == before + 1
        seen.append((part.begin, part.count, part.wants_logits))
    assert seen == [*((begin, 7, False) for begin in (0, 7, 14, 21)), (28, 2, True)]


def test_no_more_than_max_batch_run():
    scheduler = scheduler_of(max_batch=2)
    first, *_ = added(scheduler, [1], [2], [3])
    assert set(counts(stepped(scheduler))) == {0, 1}
    scheduler.cancel(first)
    assert set(counts(stepped(scheduler))) == {1, 2}


def test_no_more_run_than_a_step_has_rows():
    scheduler = scheduler_of(max_batch=8, rows=2)
    requests = added(scheduler, [1], [2], [3], [4, 4])
    for _ in range(3):
        assert counts(stepped(scheduler)) == {0: 1, 1: 1}
    for request in requests[:2]:
        scheduler.cancel(request)
    assert counts(stepped(scheduler)) == {2: 1, 3: 1}
    assert counts(stepped(scheduler)) == {2: 1, 3: 1}


def test_nobody_overtakes_the_one_who_waits_for_pages():
    scheduler = scheduler_of(pages=10, rows=64)
    first, large, small = added(scheduler, [1] * 20, [2] * 24, [3])
    for _ in range(3):
        assert set(counts(stepped(scheduler))) == {0}
    assert scheduler.waiting == (large, small)
    scheduler.cancel(first)
    assert set(counts(stepped(scheduler))) == {1, 2}
