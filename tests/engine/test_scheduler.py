import random
from collections import Counter

import pytest

from mindpress.engine.pool import PagePool
from mindpress.engine.request import Request
from mindpress.engine.scheduler import Limits, Scheduler
from mindpress.errors import ConfigError

TOKENS = 4
EOS = 0


def next_token(stored):
    """The deterministic model: of all tokens so far, in the form that slots hold them."""
    return hash((stored, 1)) % 11


def stored_forms(ids, salt):
    """What the slots of a text must hold: each stands for its token and all before it."""
    forms, form = [], hash((salt,))
    for token in ids:
        form = hash((form, token))
        forms.append(form)
    return forms


def one_by_one(request, room):
    """The answer of a run without batches, pages or chunks."""
    ids = list(request.prompt)
    while True:
        token = next_token(stored_forms(ids, request.salt)[-1])
        if token == EOS:
            return ids, "eos"
        ids.append(token)
        if len(ids) - len(request.prompt) == request.limit:
            return ids, "length"
        if len(ids) > room:
            return ids, "context"


class FakeModel:
    """Writes what a step computes into slots, and checks all that it reads from them."""

    def __init__(self, scheduler):
        self.scheduler, self.slots = scheduler, {}

    def run(self, step):
        """Tokens of the parts that want logits."""
        for part in step.parts:
            self._write(part)
        return {
            part.request: next_token(self._read(part)) for part in step.parts if part.wants_logits
        }

    def answer(self, step):
        """The same, with requests ended that gave EOS; it is no part of an answer."""
        tokens = self.run(step)
        finished = {request: "eos" for request, token in tokens.items() if token == EOS}
        return {one: token for one, token in tokens.items() if one not in finished}, finished

    def _slot(self, request, position):
        return request.pages[position // TOKENS], position % TOKENS

    def _write(self, part):
        request, end = part.request, part.begin + part.count
        before = hash((request.salt,))
        if part.begin:
            before = self.slots[self._slot(request, part.begin - 1)]
        for position in range(part.begin, end):
            before = hash((before, request.ids[position]))
            assert self.scheduler.pool.users(request.pages[position // TOKENS]) == 1
            self.slots[self._slot(request, position)] = before

    def _read(self, part):
        end = part.begin + part.count
        read = [self.slots[self._slot(part.request, position)] for position in range(end)]
        assert read == stored_forms(part.request.ids[:end], part.request.salt)
        return read[-1]


def check_step(scheduler, step):
    limits, requests = scheduler.limits, [part.request for part in step.parts]
    assert len(set(requests)) == len(requests) <= limits.max_batch
    assert sum(part.count for part in step.parts) <= limits.rows_per_step
    for part in step.parts:
        request, end = part.request, part.begin + part.count
        assert part.count >= 1
        assert request.state == "running"
        assert part.begin == request.computed
        assert end <= len(request.pages) * scheduler.pool.tokens
        assert part.wants_logits == (end == len(request.ids))


def check_pages(scheduler):
    """Counts are those of the holders; shared pages have the same tokens in and before them."""
    pool, holders, meaning = scheduler.pool, Counter(), {}
    assert not any(request.pages for request in scheduler.waiting)
    for request in scheduler.running:
        assert len(set(request.pages)) == len(request.pages)
        assert request.offered == request.computed // TOKENS
        forms = stored_forms(request.ids[: request.computed], request.salt)
        for place, page in enumerate(request.pages):
            holders[page] += 1
            # A page that is not full stands for nobody else's tokens.
            full = (place + 1) * TOKENS
            means = forms[full - 1] if full <= request.computed else request
            assert meaning.setdefault(page, means) == means
    assert {page: pool.users(page) for page in holders} == holders
    assert pool.used == len(holders)


def check_order(scheduler):
    arrivals = [one.arrival for one in (*scheduler.running, *scheduler.waiting)]
    assert arrivals == sorted(set(arrivals))
    assert len(scheduler.running) <= scheduler.limits.max_batch


def scheduler_of(pages=64, max_batch=8, rows=16, session=64):
    return Scheduler(PagePool(pages, TOKENS), Limits(max_batch, rows, session))


def added(scheduler, *prompts, limit=100, salt=0):
    requests = [Request(n, tuple(prompt), limit, salt) for n, prompt in enumerate(prompts)]
    for request in requests:
        scheduler.add(request)
    return requests


def counts(step):
    return {part.request.id: part.count for part in step.parts}


def stepped(scheduler, token=5):
    """Schedule and complete a step; every sequence that wants a token gets `token`."""
    step = scheduler.schedule()
    check_step(scheduler, step)
    scheduler.complete(step, {p.request: token for p in step.parts if p.wants_logits}, {})
    check_pages(scheduler)
    check_order(scheduler)
    return step


def run_dry(scheduler, model):
    while not scheduler.idle:
        step = scheduler.schedule()
        assert step.parts
        check_step(scheduler, step)
        scheduler.complete(step, *model.answer(step))
        check_pages(scheduler)
        check_order(scheduler)


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


def test_length_context_and_the_reasons_of_the_caller_end_requests():
    scheduler = scheduler_of(session=10)
    length, context, eos, stop = added(scheduler, [1], [2] * 8, [3], [4], limit=4)
    step = scheduler.schedule()
    scheduler.complete(step, {length: 5, context: 5, stop: 5}, {eos: "eos", stop: "stop"})
    assert (eos.finish, eos.ids) == ("eos", [3])
    assert (stop.finish, stop.ids) == ("stop", [4, 5])
    while not scheduler.idle:
        stepped(scheduler)
    assert (length.finish, length.new_tokens) == ("length", 4)
    assert (context.finish, len(context.ids)) == ("context", 11)
    assert scheduler.pool.used == 0


def test_the_caller_knows_best_why_a_request_ended():
    scheduler = scheduler_of()
    (request,) = added(scheduler, [1], limit=1)
    scheduler.complete(scheduler.schedule(), {request: 5}, {request: "stop"})
    assert (request.finish, request.ids) == ("stop", [1, 5])


def test_cancelling_waiting_running_and_finished_ones():
    scheduler = scheduler_of(max_batch=1)
    running, waiting = added(scheduler, [1] * 8, [2])
    stepped(scheduler)
    scheduler.cancel(waiting)
    scheduler.cancel(running)
    assert scheduler.idle
    assert scheduler.pool.used == 0
    assert scheduler.schedule().parts == ()
    (ended,) = added(scheduler, [1], limit=1)
    stepped(scheduler)
    scheduler.cancel(ended)
    assert (running.finish, waiting.finish, ended.finish) == ("cancelled", "cancelled", "length")


def test_one_cancelled_in_the_middle_of_a_step_gets_nothing():
    scheduler = scheduler_of()
    gone, stays = added(scheduler, [1] * 8, [2] * 8)
    step = scheduler.schedule()
    scheduler.cancel(gone)
    scheduler.complete(step, {gone: 5, stays: 5}, {})
    assert (gone.ids, gone.pages, stays.new_tokens) == ([1] * 8, [], 1)
    check_pages(scheduler)
    # What it may not have written is not found.
    assert scheduler.pool.find([1] * 8) == []


def random_request(chance, number, longest):
    """Prompts that begin alike, often to the middle of a page."""
    common = [[1, 2, 3, 4] * 5, [1, 2, 3, 4, 5, 6] * 4, [7] * 20]
    start = chance.choice(common)[: chance.randint(0, 20)]
    own = [chance.randint(1, 3) for _ in range(chance.randint(1, longest - 20))]
    salt = chance.choice([0, 0, 1])
    return Request(number, tuple(start + own), chance.randint(1, 25), salt)


def check_answer(request, room):
    ids, finish = one_by_one(request, room)
    if request.finish == "cancelled":
        assert request.ids == ids[: len(request.ids)]
    else:
        assert (request.ids, request.finish) == (ids, finish)


LAYOUTS = [
    pytest.param(12, 4, 8, id="pages are scarce"),
    pytest.param(13, 16, 64, id="all are admitted and preempted"),
    pytest.param(40, 6, 5, id="steps are small"),
    pytest.param(400, 16, 64, id="there is plenty"),
]


@pytest.mark.parametrize(("pages", "max_batch", "rows"), LAYOUTS)
def test_random_operations_give_each_the_answer_it_gets_alone(pages, max_batch, rows):
    chance = random.Random(pages)
    scheduler = scheduler_of(pages, max_batch, rows, session=44)
    model, requests, preemptions = FakeModel(scheduler), [], 0
    for _ in range(1000):
        action = chance.random()
        if action < 0.25 and len(scheduler.waiting) < 20:
            requests.append(random_request(chance, len(requests), longest=43))
            scheduler.add(requests[-1])
        elif action < 0.3 and not scheduler.idle:
            scheduler.cancel(chance.choice([*scheduler.running, *scheduler.waiting]))
        elif action < 0.302:
            scheduler.pool.forget()
        else:
            step = scheduler.schedule()
            check_step(scheduler, step)
            answer = model.answer(step)
            if step.parts and chance.random() < 0.05:
                scheduler.cancel(chance.choice(step.parts).request)
            scheduler.complete(step, *answer)
        check_pages(scheduler)
        check_order(scheduler)
    run_dry(scheduler, model)
    for request in requests:
        check_answer(request, scheduler.room)
        preemptions += request.preemptions
    assert scheduler.pool.used == 0
    assert sum(request.reused for request in requests) > 100
    assert (preemptions > 20) == (pages < 20)


def test_a_thousand_requests_of_which_many_are_cancelled_leave_nothing_behind():
    chance = random.Random(7)
    scheduler = scheduler_of(pages=60, max_batch=16, rows=48, session=44)
    model = FakeModel(scheduler)
    requests = [random_request(chance, number, longest=40) for number in range(1000)]
    unwanted = chance.sample(requests, 300)
    for request in requests:
        scheduler.add(request)
    while not scheduler.idle:
        if unwanted and chance.random() < 0.6:
            scheduler.cancel(unwanted.pop())
        step = scheduler.schedule()
        check_step(scheduler, step)
        scheduler.complete(step, *model.answer(step))
    assert scheduler.pool.used == 0
    assert (scheduler.waiting, scheduler.running) == ((), ())
    assert 150 < sum(request.finish == "cancelled" for request in requests) <= 300
    for request in requests:
        check_answer(request, scheduler.room)
    assert sorted(scheduler.pool.take(60)) == list(range(60))
