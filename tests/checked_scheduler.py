"""A scheduler over few small pages, its requests and a model in place of a real one.

The model knows from what it reads whether pages are the right ones; every step is checked.
"""

from collections import Counter

from mindpress.engine.pool import PagePool
from mindpress.engine.request import Request
from mindpress.engine.scheduler import Limits, Scheduler

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
