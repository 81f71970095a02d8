"""Pages that sequences share, and those that one gives up for another."""

from checked_scheduler import (
    TOKENS,
    FakeModel,
    added,
    check_pages,
    check_step,
    counts,
    run_dry,
    scheduler_of,
    stepped,
)


def test_a_common_beginning_is_computed_once():
    scheduler = scheduler_of(rows=32)
    (first,) = added(scheduler, [*range(10), 20])
    stepped(scheduler)
    (second,) = added(scheduler, [*range(10), 30, 31])
    (part,) = (part for part in stepped(scheduler).parts if part.request is second)
    assert (part.begin, part.count) == (8, 4)
    assert (first.reused, second.reused) == (0, 8)
    assert second.pages[:2] == first.pages[:2]


def test_the_last_token_of_a_prompt_is_always_computed():
    scheduler = scheduler_of()
    for reused in (0, 4, 4):
        (request,) = added(scheduler, [1, 2, 3, 4, 5, 6, 7, 8], limit=1)
        (part,) = stepped(scheduler).parts
        assert (part.begin, part.count, part.wants_logits) == (reused, 8 - reused, True)
        assert (request.reused, request.finish) == (reused, "length")


def test_the_next_turn_finds_prompt_and_answer():
    scheduler = scheduler_of()
    model = FakeModel(scheduler)
    (turn,) = added(scheduler, [3, 1, 4, 1, 5], limit=30)
    run_dry(scheduler, model)
    assert turn.new_tokens >= 4
    (following,) = added(scheduler, [*turn.ids, 9, 9, 9, 9])
    scheduler.schedule()
    # The last token of an answer was never read.
    assert following.reused == (len(turn.ids) - (turn.finish != "eos")) // TOKENS * TOKENS > 5


def test_requests_of_different_salt_share_nothing():
    scheduler = scheduler_of(rows=64)
    prompt = list(range(12))
    (plain,) = added(scheduler, prompt)
    stepped(scheduler)
    (salted,) = added(scheduler, prompt, salt=1)
    stepped(scheduler)
    assert (plain.reused, salted.reused) == (0, 0)
    assert not {*plain.pages} & {*salted.pages}


def test_equal_prompts_read_at_the_same_time_end_in_the_same_pages():
    scheduler = scheduler_of(rows=64)
    first, second = added(scheduler, list(range(12)), list(range(12)))
    stepped(scheduler)
    assert first.pages[:3] == second.pages[:3]
    assert scheduler.pool.used == 3
    stepped(scheduler)
    assert first.pages[3] != second.pages[3]


def test_the_latest_gives_its_pages_when_there_are_none():
    scheduler = scheduler_of(pages=6, rows=32)
    first, second, third = added(scheduler, [1] * 8, [2] * 8, [3] * 7)
    stepped(scheduler)
    # Each of the first two wants a third page now, and none is left: the third stops for both.
    step = scheduler.schedule()
    check_step(scheduler, step)
    assert counts(step) == {0: 1, 1: 1}
    assert scheduler.running == (first, second)
    assert scheduler.waiting == (third,)
    assert (third.computed, third.pages, third.preemptions) == (0, [], 1)
    assert third.ids == [3] * 7 + [5]


def test_a_preempted_sequence_comes_first_again_and_finds_its_pages():
    scheduler = scheduler_of(pages=7, rows=32)
    first, second = added(scheduler, [1] * 11, [2] * 14)
    stepped(scheduler)
    (waiting,) = added(scheduler, [3])
    while second.state == "running":
        stepped(scheduler, token=6)
    assert scheduler.waiting == (second, waiting)
    scheduler.cancel(first)
    (part, _) = scheduler.schedule().parts
    assert part.request is second
    assert part.begin >= 12
    assert part.begin + part.count == len(second.ids)
    assert second.reused == 0


def test_a_preempted_part_is_no_part_of_the_step():
    scheduler = scheduler_of(pages=4, rows=32)
    first, second = added(scheduler, [1] * 8, [1] * 8)
    for _ in range(2):
        stepped(scheduler)
    assert scheduler.pool.available == 0
    # It cannot have the old pages again, which the second holds, planned already for a row.
    scheduler.restart(first, salt=1)
    step = scheduler.schedule()
    check_step(scheduler, step)
    assert counts(step) == {0: 10}
    assert (second.state, scheduler.running) == ("waiting", (first,))
    check_pages(scheduler)


def test_the_only_one_is_never_preempted_and_ends_where_the_pool_is_full():
    scheduler = scheduler_of(pages=3, session=64)
    (request,) = added(scheduler, [1, 2, 3])
    # Pages that nobody holds any more are no obstacle.
    (earlier,) = added(scheduler, [7] * 11, limit=1)
    scheduler.cancel(request)
    stepped(scheduler)
    assert earlier.finish == "length"
    (request,) = added(scheduler, [1, 2, 3])
    while not scheduler.idle:
        assert len(stepped(scheduler).parts) == 1
    assert (request.preemptions, request.finish) == (0, "context")
    assert len(request.ids) == 3 * TOKENS + 1


def test_a_restart_computes_all_under_another_salt_and_keeps_the_place():
    scheduler = scheduler_of(rows=32)
    model = FakeModel(scheduler)
    first, second = added(scheduler, [1] * 6, [2] * 6)
    for _ in range(3):
        scheduler.complete(step := scheduler.schedule(), dict.fromkeys(model.run(step), 5), {})
    scheduler.restart(first, salt=2)
    step = scheduler.schedule()
    check_step(scheduler, step)
    assert counts(step) == {1: 1, 0: 9}
    scheduler.complete(step, dict.fromkeys(model.run(step), 5), {})
    check_pages(scheduler)
    assert scheduler.running == (first, second)
    assert (first.prompt, first.new_tokens) == ((1,) * 6, 4)
    assert scheduler.pool.find(first.ids, salt=2) == first.pages[:2]
    assert scheduler.pool.find(second.ids, salt=2) == []
