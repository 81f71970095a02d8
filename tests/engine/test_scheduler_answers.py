"""How requests end, and that each gets the answer it gets alone, whatever the others do."""

import random

import pytest
from checked_scheduler import (
    FakeModel,
    added,
    check_order,
    check_pages,
    check_step,
    one_by_one,
    run_dry,
    scheduler_of,
    stepped,
)

from mindpress.engine.request import Request


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
