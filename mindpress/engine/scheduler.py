"""Which rows of which sequences the model computes next: batching that never waits for the slowest.

Source: Yu et al. 2022, "Orca", section 3.2 (a batch is chosen anew for every step); Agrawal et al.
2024, "Sarathi-Serve", section 4 (prompts are read in chunks beside the sequences that decode);
Kwon et al. 2023, "PagedAttention", section 4.5 (preemption by computing again).
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from mindpress.engine.pool import PagePool
from mindpress.engine.request import Finish, Request
from mindpress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """At most `max_batch` sequences run at once, each of at most `session_len` tokens; a step has
    at most `rows_per_step` rows, and no more sequences run than it has rows."""

    max_batch: int
    rows_per_step: int
    session_len: int


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens begin to begin + count of a request are to be computed."""

    request: Request
    begin: int
    count: int
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What the model computes at once: sequences that decode first, then pieces of prompts."""

    parts: tuple[Part, ...]


@dataclass(slots=True)
class _Plan:
    """A step while it is made."""

    rows: int
    parts: dict[Request, Part] = field(default_factory=dict)

    def add(self, request: Request, count: int) -> None:
        last = count == request.unread
        self.parts[request] = Part(request, request.computed, count, last)
        self.rows -= count


class Scheduler:
    """A queue of requests over a pool of pages. `schedule`, run the step, `complete`, in turn.

    Those that run arrived before those that wait, always. The first of them goes on whatever
    happens: others give up their pages for it, the latest first, and it ends (`context`) when it
    fills `room`: session_len tokens, or the whole pool. So everybody's turn comes.
    """

    def __init__(self, pool: PagePool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.room = min(limits.session_len, pool.pages * pool.tokens)
        self._waiting: OrderedDict[Request, None] = OrderedDict()
        self._running: OrderedDict[Request, None] = OrderedDict()
        self._arrivals = 0
        # Who was not admitted for want of pages, and how many there were.
        self._refused: tuple[Request, int] | None = None

    @property
    def waiting(self) -> tuple[Request, ...]:
        """In order of arrival."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[Request, ...]:
        """In order of arrival."""
        return tuple(self._running)

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return not self._waiting and not self._running

    def add(self, request: Request) -> None:
        """Queue a new request. ConfigError when it could never run."""
        length, session = len(request.prompt), self.limits.session_len
        if length == 0:
            raise ConfigError("the prompt is empty", hint="write something")
        if length > session:
            raise ConfigError(
                f"the prompt has {length} tokens, a sequence holds {session}",
                hint="shorten the prompt, or raise --session-len",
            )
        if min(length + 1, session) > self.room:
            raise ConfigError(
                f"the prompt has {length} tokens and needs room for one more, the cache holds "
                f"{self.room}",
                hint="shorten the prompt, or raise --cache-max-entry-count (or --cache-memory)",
            )
        request.arrival = self._arrivals
        self._arrivals += 1
        self._waiting[request] = None

    def cancel(self, request: Request) -> None:
        """Nobody wants it any more; also in the middle of a step, and when it has ended already."""
        self._leave(request, "cancelled")

    def restart(self, request: Request, salt: Hashable) -> None:
        """Compute all its tokens again under another salt; it keeps its place. For texts that grow
        into another regime of rotary scaling, where their keys are of no use. Not within a step."""
        self._release(request)
        request.salt = salt

    def shrink(self, limits: Limits) -> None:
        """Keep to smaller limits from the next step on; the latest of those that are too many wait
        again. Also after a step that was scheduled and could not be computed."""
        self.limits = limits
        while len(self._running) > min(limits.max_batch, limits.rows_per_step):
            self._preempt(next(reversed(self._running)))

    def schedule(self) -> Step:
        """The next step; without parts only when the scheduler is idle.

        One row of every sequence that decodes; then the prompts that are being read; then those
        that wait, in order, as long as rows, pages and places are left. Their pages are taken.
        """
        plan = _Plan(self.limits.rows_per_step)
        running = self.running
        for request in running:
            if request.unread == 1:
                self._continue(request, plan)
        for request in running:
            if request.unread > 1:
                self._continue(request, plan)
        while self._admit(plan):
            pass
        return Step(tuple(plan.parts.values()))

    def complete(
        self, step: Step, tokens: Mapping[Request, int], finished: Mapping[Request, Finish]
    ) -> None:
        """Take over what the model made of `step`: a token for each part that wants logits.

        `finished` are those that the caller saw end; their token may be left out, and is then no
        part of `ids`. Those cancelled since `schedule` are passed over.
        """
        for part in step.parts:
            request = part.request
            if request.state != "running":
                continue
            request.computed = part.begin + part.count
            self._offer(request)
            if part.wants_logits and request in tokens:
                request.ids.append(tokens[request])
                end = self._end(request)
                if end is not None and request not in finished:
                    self._leave(request, end)
        for request, reason in finished.items():
            self._leave(request, reason)

    def _continue(self, request: Request, plan: _Plan) -> None:
        count = min(request.unread, plan.rows)
        # It may have been preempted by one that arrived earlier.
        if request.state == "running" and count and self._extend(request, count, plan):
            plan.add(request, count)

    def _extend(self, request: Request, count: int, plan: _Plan) -> bool:
        """Pages for its next `count` tokens, if need be those of the latest; False: of itself."""
        missing = self.pool.pages_for(request.computed + count) - len(request.pages)
        while missing > 0:
            pages = self.pool.take(missing)
            if pages is not None:
                request.pages += pages
                break
            latest = next(reversed(self._running))
            self._preempt(latest)
            plan.parts.pop(latest, None)
            if latest is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        """Its full pages are indexed: it finds them again unless others need them meanwhile."""
        self._release(request)
        request.preemptions += 1
        request.state = "waiting"
        del self._running[request]
        self._waiting[request] = None
        self._waiting.move_to_end(request, last=False)

    def _admit(self, plan: _Plan) -> bool:
        full = plan.rows == 0 or len(self._running) >= self.limits.max_batch
        if full or not self._waiting:
            return False
        request = next(iter(self._waiting))
        refused, available = self._refused or (None, 0)
        if refused is request and self.pool.available <= available:
            return False  # looking a long text up in every step would cost more than it could gain
        if not self._begin(request, plan.rows):
            self._refused = request, self.pool.available
            return False
        self._refused = None
        plan.add(request, min(request.unread, plan.rows))
        del self._waiting[request]
        self._running[request] = None
        request.state = "running"
        return True

    def _begin(self, request: Request, rows: int) -> bool:
        """What the cache has of it, and pages for its next chunk; all but the last token is looked
        up, because its logits are what the answer begins with."""
        found = self.pool.find(request.ids[:-1], request.salt)
        computed = len(found) * self.pool.tokens
        count = min(len(request.ids) - computed, rows)
        pages = self.pool.take(self.pool.pages_for(computed + count) - len(found))
        if pages is None:
            self.pool.give_back(found)
            return False
        request.pages, request.computed, request.offered = found + pages, computed, len(found)
        if request.preemptions == 0:
            request.reused = computed
        return True

    def _offer(self, request: Request) -> None:
        known, full = request.offered, request.computed // self.pool.tokens
        if full > known:
            tokens = request.ids[known * self.pool.tokens : full * self.pool.tokens]
            request.pages[known:full] = self.pool.index(
                request.pages, tokens, known=known, salt=request.salt
            )
            request.offered = full

    def _end(self, request: Request) -> Finish | None:
        if request.new_tokens >= request.limit:
            return "length"
        return "context" if request.computed >= self.room else None

    def _leave(self, request: Request, reason: Finish) -> None:
        if request.state == "finished":
            return
        self._waiting.pop(request, None)
        self._running.pop(request, None)
        self._release(request)
        request.state, request.finish = "finished", reason

    def _release(self, request: Request) -> None:
        self.pool.give_back(request.pages)
        request.pages, request.computed, request.offered = [], 0, 0
