"""Many answers at once from one model: requests join and leave the running batch at every step.

One thread owns the model. A prompt is read in pieces between the steps of the others, so that a
long one does not hold them up; then its cache joins the batch, padded on the left. Nothing here
knows of chats or text: ids go in, ids come out. Why a loop of our own, and what it gives:
docs/decisions/0010-batching.md.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from rag.errors import GeneratorBusy, ModelError, PromptTooLong
from rag.glm.rows import Rows, first_rows, step_inputs
from rag.glm.sampling import Sampling, choose

if TYPE_CHECKING:
    from rag.glm.load import LoadedGlm


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate.

    Attributes:
        ids: The prompt, at least one.
        max_new_tokens: >= 1.
        sampling: How ids are chosen.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Token:
    """A generated id; stop ids are not among them.

    Attributes:
        id: Of the vocabulary.
        logprob: Natural logarithm of its probability, before temperature and top_p.
    """

    id: int
    logprob: float


class Generation:
    """A request that was accepted; iterate over it for its tokens, as they come.

    Iterating raises ModelError if the model failed on it. It may be iterated over once.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.finish_reason: str | None = None
        """"stop", "length" or "cancelled", once it has ended without an error."""
        self.stop_id: int | None = None
        """The id that ended it, if one did."""
        self._events: queue.SimpleQueue[Token | ModelError | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    def __iter__(self) -> Iterator[Token]:
        """Yield each token as soon as it exists."""
        while (event := self._events.get()) is not None:
            if isinstance(event, ModelError):
                raise event
            yield event

    def cancel(self) -> None:
        """Give its place in the batch to another, within one step. It then ends "cancelled"."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def put(self, token: Token) -> None:
        """Hand a token over; for the engine."""
        self._events.put(token)

    def end(self, reason: str, stop_id: int | None = None) -> None:
        """Say that no more comes; for the engine."""
        self.finish_reason, self.stop_id = reason, stop_id
        self._events.put(None)

    def fail(self, error: ModelError) -> None:
        """Say that the model failed; for the engine."""
        self._events.put(error)


@dataclass(slots=True)
class _Running:
    """A request in the batch or on its way into it."""

    generation: Generation
    random: torch.Generator
    made: int = 0
    last: int = 0


class Engine:
    """Runs a loaded model for any number of threads. Close it, or use it in a `with` block.

    Args:
        glm: The model; nobody else may run it meanwhile.
        batch_size: Requests in one step, >= 1.
        queue_size: Requests that may wait for a place, >= 0; one more is refused at once.
        prompt_chunk: Tokens of a prompt that are read between two steps, >= 1.
    """

    def __init__(
        self,
        glm: LoadedGlm,
        *,
        batch_size: int = 8,
        queue_size: int = 64,
        prompt_chunk: int = 256,
    ) -> None:
        if min(batch_size, prompt_chunk) < 1 or queue_size < 0:
            raise ValueError("expected batch_size and prompt_chunk >= 1, queue_size >= 0")
        self._glm = glm
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._chunk = prompt_chunk
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._active = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        prefix = self._glm.prefix.tokens if self._glm.prefix else 0
        return self._glm.shape.context - prefix

    def submit(self, request: Request) -> Generation:
        """Accept a request.

        An answer ends early where the context is full.

        Raises:
            PromptTooLong: If the prompt leaves no room for one token in the context.
            GeneratorBusy: If as many wait already as may.
            ModelError: If the engine is closed.
            ValueError: If the prompt is empty, holds an id the model lacks, or max_new_tokens < 1.
        """
        ids = request.ids
        if not ids or request.max_new_tokens < 1:
            raise ValueError("expected a prompt and max_new_tokens >= 1")
        if not 0 <= min(ids) <= max(ids) < self._glm.shape.vocabulary:
            raise ValueError(f"expected ids from 0 to {self._glm.shape.vocabulary - 1}")
        if len(ids) >= self.context:
            raise PromptTooLong(
                f"The prompt has {len(ids):,} tokens; {self._glm.name} reads {self.context:,}, the "
                "answer included.",
                do="Lower prompt_tokens or top_k, or use a model with a longer context.",
            )
        generation = Generation(request)
        with self._changed:
            if self._closed:
                raise ModelError("The generator has been shut down.", do="Start it again.")
            free = self._batch_size - self._active
            if len(self._waiting) >= self._queue_size + max(0, free):
                raise GeneratorBusy(
                    f"{self._active} answers are being written and {len(self._waiting)} wait.",
                    do="Try again later, or raise generator_queue.",
                )
            self._waiting.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="glm", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return generation

    def close(self) -> None:
        """End every request with a ModelError, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        running: list[_Running] = []
        failure = ModelError("The generator was shut down.", do="Ask again.")
        try:
            with torch.inference_mode():
                self._loop(running)
        except BaseException as error:
            failure = ModelError(
                f"The generator stopped: {type(error).__name__}: {error}.", do="Start it again."
            )
            raise
        finally:
            with self._changed:
                self._closed = True
                left = [*(item.generation for item in running), *self._waiting]
                self._waiting.clear()
            for generation in left:
                generation.fail(failure)

    def _loop(self, running: list[_Running]) -> None:
        """Work until closed; `running` holds those accepted, the ones of `rows` first, in order."""
        rows: Rows | None = None
        while True:
            self._admit(running)
            if self._closed:
                return
            rows = self._drop(running, rows, [r for r in running if r.generation.cancelled])
            in_batch = 0 if rows is None else len(rows)
            if len(running) > in_batch:
                rows = self._begin(running, rows)
            if rows is not None and len(rows):
                rows = self._step(running, rows)

    def _admit(self, running: list[_Running]) -> None:
        """Wait for work; take as many requests as have a place, one new one at a time."""
        with self._changed:
            while not running and not self._waiting and not self._closed:
                self._changed.wait()
            if self._waiting and len(running) < self._batch_size:
                generation = self._waiting.popleft()
                running.append(_Running(generation, generation.request.sampling.generator()))
            self._active = len(running)

    def _begin(self, running: list[_Running], rows: Rows | None) -> Rows | None:
        """Read the newest request's prompt, stepping the others in between, and let it join."""
        new = running[-1]
        ids = new.generation.request.ids
        mine = first_rows(self._glm)
        for start in range(0, len(ids), self._chunk):
            if new.generation.cancelled or self._closed:
                return rows  # the loop drops it
            part = ids[start : start + self._chunk]
            try:
                logits = self._forward(mine, [part])
            except ModelError as error:
                running.remove(new)
                new.generation.fail(error)
                return rows
            if rows is not None and len(rows) and start + self._chunk < len(ids):
                rows = self._step(running, rows)
        if not self._take(new, logits[0]):
            running.remove(new)
            return rows
        if rows is None or not len(rows):
            return mine
        try:
            with _faults(self._glm.name):
                return rows.joined(mine)
        except ModelError as error:
            running.remove(new)
            new.generation.fail(error)
            return rows

    def _step(self, running: list[_Running], rows: Rows) -> Rows | None:
        """Let every request of the batch make one token."""
        batch = running[: len(rows)]
        try:
            logits = self._forward(rows, [[item.last] for item in batch])
        except ModelError as error:
            batch[-1].generation.fail(error)  # the youngest; the others may fit without it
            return self._drop(running, rows, [batch[-1]], ended=True)
        done = [item for item, row in zip(batch, logits, strict=True) if not self._take(item, row)]
        return self._drop(running, rows, done, ended=True)

    def _forward(self, rows: Rows, ids: list[list[int]] | list[tuple[int, ...]]) -> torch.Tensor:
        """Return (requests, vocabulary) logits behind the ids, which `rows` then holds.

        Raises:
            ModelError: If the model failed, for want of memory usually; `rows` is as before.
        """
        glm = self._glm
        try:
            with _faults(glm.name):
                inputs = step_inputs(rows, ids, glm.model.device)
                found = glm.model(**inputs, use_cache=True, logits_to_keep=1)
        except ModelError:
            rows.undo()
            raise
        rows.take(found.past_key_values, len(ids[0]))
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def _take(self, item: _Running, logits: torch.Tensor) -> bool:
        """Choose a request's next token; return whether it goes on."""
        generation = item.generation
        try:
            id_, logprob = choose(logits, generation.request.sampling, item.random)
        except ModelError as error:
            generation.fail(error)
            return False
        if id_ in self._glm.stop_ids:
            generation.end("stop", id_)
            return False
        generation.put(Token(id_, logprob))
        item.made, item.last = item.made + 1, id_
        room = self.context - len(generation.request.ids)
        if item.made >= min(generation.request.max_new_tokens, room):
            generation.end("length")
            return False
        return True

    def _drop(
        self,
        running: list[_Running],
        rows: Rows | None,
        gone: list[_Running],
        *,
        ended: bool = False,
    ) -> Rows | None:
        """Take requests out of the batch; those not `ended` yet end "cancelled"."""
        if not gone:
            return rows
        count = 0 if rows is None else len(rows)
        kept = [place for place in range(count) if running[place] not in gone]
        for item in gone:
            running.remove(item)
            if not ended:
                item.generation.end("cancelled")
        with self._changed:
            self._active = len(running)
        if rows is None or len(kept) == count:
            return rows
        return rows.only(kept) if kept else None


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Turn what a model or its device raises into a ModelError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            raise ModelError(
                f"Memory ran out while {name} was answering.",
                do="Lower generator_batch, prompt_tokens or generator_max_tokens.",
            ) from error
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{name} failed: {first}.", do="Run `youju doctor`.") from error
