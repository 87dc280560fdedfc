"""Runs one model for many at once: requests join and leave its batch between two steps.

A step reads in a stretch of waiting prompts, then makes one token for each running request. It
deals in ids: it knows no text, no chat format and no stop strings. Why it is a loop of our own,
and what that costs: docs/decisions/0010-batching.md.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rag.errors import (
    ConfigError,
    EngineClosed,
    GenerationFailed,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    YoujuError,
)
from rag.glm.generation import End, Generation, Request
from rag.glm.prefix import Prefix
from rag.glm.rows import RowCache
from rag.glm.sampling import SHALLOW, Chooser, Row, look

PROMPT_CHUNK = 512
"""Prompt tokens read in per step: how long running requests may have to wait for newcomers."""

_FAULTS = (RuntimeError, MemoryError, ValueError, IndexError, ArithmeticError)
"""What PyTorch and a model raise when a pass cannot be computed; out of memory is among them."""

_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate",
    "cannot allocate",
    "alloc_failed",
)


@dataclass(slots=True, eq=False)
class _Job:
    """A request and how far it has come.

    Attributes:
        seen: Columns its row holds: prefix, prompt and tokens that were read in.
        read: Prompt ids among them.
        left: Tokens it may still be given.
        last: The newest token, which is read in next.
        deadline: When it fails, by time.monotonic.
        timeout_s: What its deadline was made of.
    """

    ids: list[int]
    left: int
    chooser: Chooser
    generation: Generation
    seen: int = 0
    read: int = 0
    last: int = 0
    deadline: float = float("inf")
    timeout_s: float = float("inf")

    @property
    def overdue(self) -> End | None:
        """How it is to end now, if it is."""
        if self.generation.cancelled:
            return End("cancelled")
        if time.monotonic() < self.deadline:
            return None
        late = GenerationFailed(
            f"The answer was not complete within {self.timeout_s:g} s.",
            do="Raise generator_timeout, or lower generator_max_tokens.",
        )
        return End(None, error=late)


class Engine:
    """A model that answers many requests side by side. Any thread may use it.

    At most `batch` requests run and `queue` wait. Its own thread begins with the first request and
    ends with `close` or `end`, or when Python does; until then it holds the model. Requests that
    run together do not see each other: what one is given differs from what it would be given alone
    only by how sums are rounded in larger matrices.

    Args:
        model: `GlmForCausalLM`, in evaluation mode.
        stop_ids: Ids that end an answer.
        context: Most tokens of prompt and answer together, a prefix not counted.
        prefix: Of a P-Tuning adapter; put before each text.
        batch: Most requests that run at once.
        queue: Most requests that wait beside them.
        chunk: Prompt tokens read in per step.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401  transformers has no types to import without its cost
        *,
        stop_ids: Sequence[int],
        context: int,
        prefix: Prefix | None = None,
        batch: int = 8,
        queue: int = 32,
        chunk: int = PROMPT_CHUNK,
    ) -> None:
        for name, value, least in (("batch", batch, 1), ("queue", queue, 0), ("chunk", chunk, 1)):
            if value < least:
                raise ConfigError(f"{name} = {value} is not allowed.", do=f"Expected {least}.")
        self.context, self.batch, self.queue = context, batch, queue
        self._model, self._stop_ids, self._chunk = model, frozenset(stop_ids), chunk
        self._prefix = prefix
        config = model.config
        self._cache = RowCache(
            layers=config.num_hidden_layers,
            groups=config.num_key_value_heads,
            head_dim=config.head_dim,
            dtype=model.dtype,
            device=model.device,
            rows=batch,
            columns=context + (prefix.tokens if prefix else 0),
        )
        self._change = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._open = 0  # requests taken and not ended
        self._closed = False
        self._fault = ""
        self._thread: threading.Thread | None = None
        # Of the engine's thread alone: running requests are rows 0, 1, ...; behind them the one
        # whose prompt is being read in.
        self._running: list[_Job] = []
        self._filling: _Job | None = None

    @property
    def load(self) -> int:
        """Requests that run or wait now."""
        return self._open

    @property
    def broken(self) -> bool:
        """Whether its thread ended by a fault; what was asked then has failed, or soon will."""
        return bool(self._fault)

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take now."""
        return self._cache.nbytes

    def submit(self, request: Request, loop: asyncio.AbstractEventLoop | None = None) -> Generation:
        """Take a request, to run as soon as there is a place.

        Args:
            request: What to continue.
            loop: The running event loop, for a generation that is read with `async for`.

        Raises:
            QueueFull: If `batch` and `queue` are used up; nothing is kept of the request.
            PromptTooLong: If the prompt fills the context.
            EngineClosed: If `close` was called, or the engine's thread broke down.
        """
        length = len(request.ids)
        if length >= self.context:
            raise PromptTooLong(
                f"The prompt has {length:,} tokens; the model's context is {self.context:,}, "
                "answer included.",
                do="Shorten it.",
            )
        rows = self._model.config.vocab_size
        if max(request.ids) >= rows:
            raise ConfigError(f"The prompt has id {max(request.ids)}; the model knows {rows:,}.")
        left = self.context - length
        if request.max_new_tokens is not None:
            left = min(left, request.max_new_tokens)
        job = _Job(
            list(request.ids),
            left,
            Chooser(request.sampling, request.top_logprobs, request.beginnings),
            Generation(loop),
        )
        if request.timeout_s is not None:
            job.timeout_s = request.timeout_s
            job.deadline = time.monotonic() + request.timeout_s
        with self._change:
            if self._closed:
                raise EngineClosed(self._why_closed(), do="Load it again.")
            if self._open >= self.batch + self.queue:
                raise QueueFull(
                    f"{self.batch} requests run and {self._open - self.batch} wait, which is the "
                    "most.",
                    do="Ask again later, or raise generator_queue.",
                )
            self._open += 1
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="glm", daemon=True)
                self._thread.start()
                # A thread that is inside PyTorch when Python is torn down aborts the process.
                atexit.register(self.close)
            self._change.notify()
        return job.generation

    def close(self) -> None:
        """As `end`, and wait for the thread, at most as long as one step takes."""
        self.end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def end(self) -> None:
        """End what runs and waits with EngineClosed, and the thread; it may be called again."""
        with self._change:
            self._closed = True
            self._change.notify()

    # -- the engine's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._work():
                    self._step()
        finally:  # closed; or a fault that nobody foresaw, which must leave no one waiting
            self._fault = _in_flight()
            with self._change:
                self._closed = True
                atexit.unregister(self.close)
                jobs = [*self._running, *self._waiting]
                jobs += [self._filling] if self._filling else []
                self._waiting.clear()
            self._running, self._filling = [], None
            for job in jobs:
                self._end(job, End(None, error=EngineClosed(self._why_closed())))
            self._cache.clear()  # last: a device that broke down refuses even this

    def _why_closed(self) -> str:
        return f"The model broke down: {self._fault}." if self._fault else "The model was closed."

    def _work(self) -> bool:
        """Wait for something to do; False if there will be nothing any more."""
        with self._change:
            while not (self._closed or self._waiting or self._running or self._filling):
                self._cache.clear()
                self._change.wait()
            return not self._closed

    def _step(self) -> None:
        self._leave()
        self._read_in()
        if self._running:
            self._decode()

    def _leave(self) -> None:
        """Let go of the requests that were cancelled or took too long."""
        with self._change:
            gone = [(job, end) for job in self._waiting if (end := job.overdue)]
            for job, _ in gone:
                self._waiting.remove(job)
        for job, end in gone:
            self._end(job, end)
        held = [*self._running, *([self._filling] if self._filling else [])]
        for job in held:
            if end := job.overdue:
                self._remove(job, end)

    def _read_in(self) -> None:
        """Read in up to a chunk of prompts; those that are through get their first token."""
        room = self._chunk
        while room > 0:
            if self._filling is None and not self._admit():
                return
            job = self._filling
            if job is None:
                continue
            # Whole chunks, counted from the prompt's beginning: how it is cut, and so how sums are
            # rounded, must not depend on what else there is to read.
            ids = job.ids[job.read : job.read + self._chunk]
            room -= len(ids)
            row = len(self._running)
            try:
                logits = self._forward(row, [job], [ids])
            except _FAULTS as error:
                self._remove(job, End(None, error=_named(error)))
                continue
            job.seen += len(ids)
            job.read += len(ids)
            if job.read == len(job.ids):
                self._filling = None
                self._running.append(job)
                self._give(job, self._looked_at(job, logits[0]))

    def _admit(self) -> bool:
        """Give the longest waiting request a row, if there is one."""
        if len(self._running) >= self.batch:
            return False
        with self._change:
            if not self._waiting:
                return False
            job = self._filling = self._waiting.popleft()
        if self._prefix is not None:
            try:
                self._cache.put(len(self._running), self._prefix.keys, self._prefix.values)
            except _FAULTS as error:
                self._remove(job, End(None, error=_named(error)))
                return True
            job.seen = self._prefix.tokens
        return True

    def _decode(self) -> None:
        """Make one token for each running request."""
        jobs = list(self._running)
        rows: list[Row | YoujuError | None]
        try:
            rows = self._looked(jobs, self._forward(0, jobs, [[job.last] for job in jobs]))
        except _FAULTS as error:
            rows = [_named(error)]
            if len(jobs) > 1:  # whose fault is it? alone, each one succeeds or is to blame
                rows = [self._alone(row, job) for row, job in enumerate(jobs)]
        for job in jobs:
            job.seen += 1
        for job, found in zip(jobs, rows, strict=True):
            self._give(job, found)

    def _alone(self, row: int, job: _Job) -> Row | YoujuError | None:
        try:
            logits = self._forward(row, [job], [[job.last]])
        except _FAULTS as error:
            return _named(error)
        return self._looked_at(job, logits[0])

    def _looked(self, jobs: list[_Job], logits: torch.Tensor) -> list[Row | YoujuError | None]:
        """Look at a step's logits: together, but for those who must see all or only some ids."""
        plain = [
            place
            for place, job in enumerate(jobs)
            if job.chooser.depth <= SHALLOW and not job.chooser.allowed
        ]
        rows: list[Row | YoujuError | None] = [None] * len(jobs)
        if plain:
            depth = max(jobs[place].chooser.depth for place in plain)
            shown = logits if len(plain) == len(jobs) else logits[plain]
            for place, row in zip(plain, look(shown, depth), strict=True):
                rows[place] = row
        for place in set(range(len(jobs))) - set(plain):
            rows[place] = self._looked_at(jobs[place], logits[place])
        return rows

    def _looked_at(self, job: _Job, logits: torch.Tensor) -> Row | YoujuError | None:
        try:
            return look(logits[None], job.chooser.depth, job.chooser.allowed)[0]
        except _FAULTS as error:
            return _named(error)

    def _forward(self, row: int, jobs: list[_Job], ids: list[list[int]]) -> torch.Tensor:
        """Run the model on rows row, row + 1, ...: (texts, vocabulary) logits of the last tokens.

        A row is written where its text ends, so a pass that failed can be repeated.
        """
        starts = [job.seen for job in jobs]
        tokens = len(ids[0])
        self._cache.aim(row, starts, tokens)
        device = self._model.device
        inputs = torch.tensor(ids, device=device)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(
            tokens, device=device
        )
        mask = None
        if len(jobs) > 1 and min(starts) != max(starts):
            mask = torch.arange(max(starts) + 1, device=device) <= positions
        logits: torch.Tensor = self._model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits

    def _give(self, job: _Job, row: Row | YoujuError | None) -> None:
        """Choose a request's next token and hand it over; end it when it is time."""
        try:
            if isinstance(row, YoujuError):
                raise row
            token = job.chooser.choose(row)
        except YoujuError as error:
            self._remove(job, End(None, error=error))
            return
        except _FAULTS as error:
            self._remove(job, End(None, error=_named(error)))
            return
        if token.id in self._stop_ids:
            self._remove(job, End("stop", token.id))
            return
        job.last = token.id
        job.left -= 1
        job.generation.deliver(token)
        if job.left == 0:
            self._remove(job, End("length"))

    def _remove(self, job: _Job, end: End) -> None:
        """Free a request's row and end it; the rows stay without a gap."""
        try:
            self._let_go(job)
        finally:  # even if the device broke down: who asked must not wait for ever
            self._end(job, end)

    def _let_go(self, job: _Job) -> None:
        last = len(self._running) - 1
        if job is self._filling:
            self._filling = None
            self._cache.drop(last + 1, last + 1, job.seen)
            return
        row = self._running.index(job)
        moved = self._running[row] = self._running[last]
        self._running.pop()
        self._cache.drop(row, last, max(job.seen, moved.seen))
        if (filling := self._filling) is not None:
            self._cache.drop(last, last + 1, max(moved.seen, filling.seen))

    def _end(self, job: _Job, end: End) -> None:
        with self._change:
            self._open -= 1
        job.generation.deliver(end)


def _in_flight() -> str:
    """What is being raised, in words: the error itself holds on to what its frames computed."""
    error = sys.exc_info()[1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}" if error else ""


def _named(error: Exception) -> YoujuError:
    """Say what a failed pass means to the one who asked."""
    text = " ".join(str(error).split())
    detail = text[:200] or type(error).__name__
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    # The failed pass's frames hold what it computed: a pass repeated now needs that memory.
    traceback.clear_frames(error.__traceback__)
    if memory or any(sign in text.lower() for sign in _NO_MEMORY):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory(
            f"Memory did not suffice for this request: {detail}",
            do="Shorten the prompt, or lower generator_batch or generator_max_tokens.",
        )
    return GenerationFailed(
        f"The model failed on this request: {type(error).__name__}: {detail}",
        do="Check the prompt and the model; other requests go on.",
    )
