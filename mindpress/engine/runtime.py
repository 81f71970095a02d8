"""Many answers at once: every step computes what the scheduler chose, for all of them together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import RLock

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.batch_sampling import draw_all
from mindpress.engine.config import GenerationConfig
from mindpress.engine.decoder import Decoder
from mindpress.engine.fused import fused_blocks
from mindpress.engine.graphs import Capture, DecodeGraphs, GraphLimits, cuda_capture
from mindpress.engine.logprobs import TokenLogprobs, logprobs_of
from mindpress.engine.memory import device_errors
from mindpress.engine.paged import LayerPages, PagedMixing
from mindpress.engine.pool import PagePool
from mindpress.engine.request import Finish, Request
from mindpress.engine.sampling import Sampler, check_finite_logit
from mindpress.engine.scheduler import Limits, Scheduler, Step
from mindpress.engine.step_rows import StepRows, rows_of
from mindpress.engine.team import Team
from mindpress.engine.vocabulary import check_ids
from mindpress.errors import ConfigError
from mindpress.events import Listener, Note, ignore
from mindpress.kernels.paged import PagedOperations


@dataclass(frozen=True, slots=True)
class Memory:
    """The cache of a runtime: `pages` of `tokens` tokens in every layer."""

    layers: list[LayerPages]
    pages: int
    tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(layer.nbytes for layer in self.layers)


@dataclass(slots=True, eq=False)
class Answer:
    """An answer in the making. `finish` is None until it has ended."""

    prompt_tokens: int
    sampler: Sampler
    ends: Collection[int]
    wanted_logprobs: int | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: Finish | None = None
    reused: int = 0


class Runtime:
    """A decoder, the pages of its cache, and the requests that share them.

    `step` computes one step and gives the answers that got a token or ended. Greedy answers are
    those each request would get alone.
    """

    def __init__(
        self,
        decoder: Decoder,
        memory: Memory,
        operations: PagedOperations,
        limits: Limits,
        team: Team | None = None,
        listener: Listener = ignore,
    ) -> None:
        self.decoder, self.memory, self.limits = decoder, memory, limits
        self._team, self._listener, self._closed = team, listener, False
        self.lock = RLock()
        self._fused = fused_blocks(decoder, memory.layers) if team is None else None
        self._graphs = self._decode_graphs() if decoder.device.type == "cuda" else None
        self._operations = operations
        self.pool = PagePool(memory.pages, memory.tokens)
        self.scheduler = Scheduler(self.pool, limits)
        self._requests: dict[int, Request] = {}
        self._count = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is left to compute."""
        return self.scheduler.idle

    def add(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        eos_ids: Collection[int] = (),
        defaults: Mapping[str, int | float] | None = None,
    ) -> Answer:
        """Queue a prompt. ConfigError when it can never be answered within the limits."""
        if self._closed:
            raise ConfigError("this pipeline was closed", hint="open it again")
        check_ids(max(prompt, default=0), self.decoder.shape.vocab)
        sampler = Sampler(config.sampling(defaults), config.seed, self.decoder.shape.vocab)
        ends = () if config.ignore_eos else frozenset(eos_ids)
        answer = Answer(len(prompt), sampler, ends, config.logprobs)
        salt = self.decoder.rotary.salt(len(prompt), len(prompt))
        sampler.see(prompt)
        with self.lock:
            self._count += 1
            request = Request(self._count, tuple(prompt), config.max_new_tokens, salt, answer)
            self.scheduler.add(request)
            self._requests[id(answer)] = request
        return answer

    def end(self, answer: Answer, finish: Finish = "cancelled") -> None:
        """Compute no more of it; its pages are free for others."""
        with self.lock:
            request = self._requests.pop(id(answer), None)
            if request is not None:
                self.scheduler.cancel(request)
                answer.finish = finish

    def step(self) -> list[Answer]:
        """Compute one step. The answers that have a token more, or have ended.

        Threads take turns; hold `lock` to look at answers that another one may be adding to. When
        the device runs out of memory, fewer sequences and rows are tried and the listener is told;
        ResourceError when not even one row fits.
        """
        with self.lock, torch.inference_mode():
            return self._stepped()

    def _stepped(self) -> list[Answer]:
        step = self.scheduler.schedule()
        if not step.parts:
            return []
        asking = [part.request for part in step.parts if part.wants_logits]
        try:
            logits = self._logits(self._rows(step))
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._retreat(error)
            return []
        tokens = self._drawn(asking, logits) if asking else {}
        self._complete(step, tokens)
        return [self._told(request, token) for request, token in tokens.items()]

    def _rows(self, step: Step) -> StepRows:
        return rows_of(step, self.decoder.rotary, self.memory.tokens, self.decoder.device)

    def _retreat(self, error: Exception) -> None:
        """Half as many sequences and rows. What the failed step stored is stored again."""
        limits = self.scheduler.limits
        if limits.rows_per_step == 1 or self._team is not None:
            with device_errors():
                raise error
        smaller = replace(
            limits,
            max_batch=max(1, limits.max_batch // 2),
            rows_per_step=max(1, limits.rows_per_step // 2),
        )
        self.scheduler.shrink(smaller)
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()
        self._listener(
            Note(
                f"memory ran out: at most {smaller.max_batch} sequences and"
                f" {smaller.rows_per_step} rows are computed at once from now on",
                "warning",
            )
        )

    def close(self) -> None:
        """End the processes that compute with this one; nothing can be computed after it."""
        if self._team is not None:
            self._closed = True
            self._team.close()

    def _logits(self, rows: StepRows) -> Float[Tensor, "asked vocab"]:
        if self._graphs is not None and self._graphs.takes(rows):
            return self._graphs(rows)
        return self._computed(rows)

    def _computed(self, rows: StepRows) -> Float[Tensor, "asked vocab"]:
        hidden = self._forward(rows)[rows.asked]
        if len(hidden) == 0:  # a piece of a prompt: no reason to read the head
            return hidden.new_empty(0, self.decoder.shape.vocab)
        return self.decoder.logits(hidden)

    def _forward(self, rows: StepRows) -> Float[Tensor, "rows hidden"]:
        decoder = self.decoder
        if self._fused is not None and self._fused.takes(len(rows.ids)):
            return self._fused(decoder.embed(rows.ids), rows.places)
        mixing = PagedMixing(decoder.shape, self.memory.layers, self._operations, rows.places)
        if self._team is None:
            return decoder.forward(rows.ids, mixing)
        self._team.tell(rows)
        with self._team.together():
            return decoder.forward(rows.ids, mixing)

    def _decode_graphs(self, capture: Capture = cuda_capture) -> DecodeGraphs | None:
        """None where the host takes part in a step: another process is told of it."""
        if self._team is not None:
            return None
        decoder, limits = self.decoder, self.limits
        pages = -(-limits.session_len // self.memory.tokens)
        sizes = GraphLimits(limits.max_batch, limits.session_len, pages, decoder.shape.rotary_dim)
        like = torch.empty(0, dtype=decoder.dtype, device=decoder.device)
        return DecodeGraphs(self._computed, capture, sizes, like)

    def _complete(self, step: Step, tokens: dict[Request, int]) -> None:
        ended: dict[Request, Finish] = {
            request: "eos" for request, token in tokens.items() if token in _answer(request).ends
        }
        kept = {request: token for request, token in tokens.items() if request not in ended}
        self.scheduler.complete(step, kept, ended)
        for request in kept:
            salt = self.decoder.rotary.salt(len(request.prompt), len(request.ids))
            if request.state == "running" and salt != request.salt:
                self.scheduler.restart(request, salt)

    def _drawn(
        self, requests: list[Request], logits: Float[Tensor, "asked vocab"]
    ) -> dict[Request, int]:
        answers = [_answer(request) for request in requests]
        if all(answer.sampler.greedy for answer in answers):
            best, tokens = logits.max(-1)
            check_finite_logit(best.max())
            drawn = tokens.tolist()
        elif self.decoder.device.type == "cpu":
            drawn = [answer.sampler(row) for answer, row in zip(answers, logits, strict=True)]
        else:
            samplers = [answer.sampler for answer in answers]
            drawn = draw_all(logits, samplers, self.decoder.kernels)
        for answer, token, row in zip(answers, drawn, logits, strict=True):
            if answer.wanted_logprobs is not None:
                answer.logprobs.append(logprobs_of(row, token, answer.wanted_logprobs))
        return dict(zip(requests, drawn, strict=True))

    def _told(self, request: Request, token: int) -> Answer:
        answer = _answer(request)
        answer.finish, answer.reused = request.finish, request.reused
        if request.finish != "eos":
            answer.tokens.append(token)
        elif answer.logprobs:
            del answer.logprobs[len(answer.tokens) :]
        if request.finish is not None:
            self._requests.pop(id(answer), None)
        return answer


def _answer(request: Request) -> Answer:
    owner = request.owner
    if not isinstance(owner, Answer):
        raise TypeError(f"a request of something else: {owner!r}")
    return owner
