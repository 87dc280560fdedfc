"""build_rag(settings): the only place that names concrete classes.

Everything is made on first use: listing stores loads no model, and asking loads no parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rag.config import Settings
from rag.errors import ConfigError, UnknownStore, UsageError
from rag.index.dense import FaissIndex
from rag.index.follow import DenseFollower, LexicalFollower
from rag.made_by import check_chunker, check_embedder
from rag.offline import switch_off_telemetry
from rag.once import once
from rag.protocols import Reranker, Tokens
from rag.store.catalog import SHADOW_PREFIX, Catalog
from rag.store.corpus import Store
from rag.store.database import Database

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from rag.answering import Answerer, AnswerOptions, AnswerPiece
    from rag.chain import Chain, Question, Retrieved
    from rag.chat_models import ChatGLM3
    from rag.embed.openvino import OpenVinoEmbedder
    from rag.embed.torch import TorchEmbedder
    from rag.index.analyze import Analyzer
    from rag.prompt import Message
    from rag.retrieve import Retriever, System
    from rag.schema import Answer, Hit
    from rag.talk import Talker

_DTYPES = {"auto": "auto", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def build_rag(settings: Settings) -> Rag:
    """Return the parts that the settings ask for, none of them loaded yet."""
    switch_off_telemetry()
    return Rag(settings)


def in_folder(rag: Rag, folder: Path) -> Rag:
    """Return the same parts over a database of its own in another folder."""
    other = Rag(rag.settings.model_copy(update={"home": folder, "database_url": ""}))
    other.embedder, other.analyzer, other.reranker = rag.embedder, rag.analyzer, rag.reranker
    return other


def make_embedder(settings: Settings) -> OpenVinoEmbedder | TorchEmbedder:
    """Return the embedder that the settings name; its weights load with the first text.

    Raises:
        ConfigError: If a setting does not fit the engine.
        ModelError: If the model is not there.
    """
    query_prompt = settings.embedder_query_prompt
    passage_prompt = settings.embedder_passage_prompt
    if settings.embedder == "openvino":
        if settings.embedder_device.startswith("cuda") or settings.embedder_precision == "f16":
            raise ConfigError(
                "embedder openvino runs on the CPU in f32 or bf16.", do="Set embedder to torch."
            )
        from rag.embed.openvino import OpenVinoEmbedder
        from rag.embed.packaged import packaged_model

        return OpenVinoEmbedder(
            settings.models_folder,
            model=packaged_model(query_prompt=query_prompt, passage_prompt=passage_prompt),
            precision=settings.embedder_precision,
            threads=settings.threads,
            batch_tokens=settings.embedder_batch_tokens,
        )
    from rag.embed.torch import TorchEmbedder

    return TorchEmbedder(
        settings.embedder_model,
        device=settings.embedder_device,
        precision=settings.embedder_precision,
        batch_tokens=settings.embedder_batch_tokens,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
    )


def make_reranker(settings: Settings) -> Reranker | None:
    """Return the reranker that the settings name, or None."""
    if settings.reranker == "none":
        return None
    from rag.rerank import CrossEncoderReranker, EndpointReranker

    if settings.reranker == "cross-encoder":
        return CrossEncoderReranker(
            settings.reranker_model,
            device=settings.embedder_device,
            precision=settings.embedder_precision,
        )
    key = settings.reranker_api_key.get_secret_value()
    return EndpointReranker(settings.reranker_url, api_key=key)


def make_chatglm3(settings: Settings) -> tuple[ChatGLM3, Callable[[str], int], int]:
    """Return the ChatGLM3 that the settings name, how it counts tokens, and room for its prompt.

    Its weights are loaded with the first question that it is asked.

    Raises:
        ModelError: If it is not there, or not a complete ChatGLM3 with its tokenizer.
        ConfigError: If generator_max_tokens leaves no room for a prompt.
    """
    from rag.chat_models import ChatGLM3
    from rag.glm.served import look_up

    found = look_up(settings.generator_model, download=settings.generator_download)
    room = found.context - settings.generator_max_tokens
    if room <= 0:
        raise ConfigError(
            f"generator_max_tokens = {settings.generator_max_tokens:,} leaves no room for a prompt "
            f"in the context of {found.context:,} tokens.",
            do="Lower it.",
        )
    model = ChatGLM3(
        model=str(found.folder),
        adapter=settings.generator_adapter,
        dtype=_DTYPES[settings.generator_precision],
        device=settings.generator_device,
        batch_size=settings.generator_batch,
        queue_size=settings.generator_queue,
        do_sample=False,  # the same question gets the same answer
        max_tokens=settings.generator_max_tokens,
        timeout=settings.generator_timeout,
    )
    return model, found.count_tokens, min(settings.prompt_tokens, room)


@dataclass(frozen=True, slots=True)
class _Generator:
    """A chat model, how it counts tokens, its prompt's room and how to enlarge it, its errors."""

    model: BaseChatModel
    count_tokens: Callable[[str], int]
    budget: int
    remedy: str = "raise prompt_tokens"
    errors: Callable[[], AbstractContextManager[None]] = nullcontext


class Rag:
    """A library of stores under one set of settings. Make it with `build_rag`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @once
    def db(self) -> Database:
        """The database, opened on first use."""
        settings = self.settings
        return Database(
            settings.url, timeout_s=settings.database_timeout, pool=settings.database_pool
        )

    @once
    def catalog(self) -> Catalog:
        """The stores in it."""
        return Catalog(self.db)

    @once
    def embedder(self) -> OpenVinoEmbedder | TorchEmbedder:
        """The embedder."""
        return make_embedder(self.settings)

    @property
    def tokens(self) -> Tokens:
        """The embedder's view of text; needs no weights."""
        return self.embedder.tokens

    @once
    def analyzer(self) -> Analyzer:
        """Splits text into terms, for the lexical index and the answerers alike."""
        from rag.index.analyze import Analyzer

        return Analyzer()

    @once
    def reranker(self) -> Reranker | None:
        """The reranker, or None."""
        return make_reranker(self.settings)

    @once
    def answerer(self) -> Answerer:
        """Who writes the answers."""
        from rag.extract import ExtractiveAnswerer

        settings = self.settings
        extractive = ExtractiveAnswerer(
            self.analyzer, tokens=self.tokens, threshold=settings.refusal_threshold
        )
        if settings.generator == "extractive":
            return extractive
        from rag.chain import Generating
        from rag.prompt import load_template

        generator = self._generator
        return Generating(
            generator.model,
            judge=extractive,
            template=load_template(settings.prompt_file),
            count_tokens=generator.count_tokens,
            budget=generator.budget,
            remedy=generator.remedy,
            analyzer=self.analyzer,
            errors=generator.errors,
            max_tokens=settings.generator_max_tokens,
        )

    @once
    def talker(self) -> Talker:
        """The generator alone, for a chat that asks no documents.

        Raises:
            UsageError: If the settings name none.
            ModelError, ConfigError: As `make_chatglm3`.
        """
        if self.settings.generator == "extractive":
            raise UsageError(
                "generator = extractive only quotes documents: it cannot chat without them.",
                do="Set generator to chatglm3 or openai, and generator_model.",
            )
        from rag.talk import Talker

        return Talker(
            self._generator.model,
            errors=self._generator.errors,
            max_tokens=self.settings.generator_max_tokens,
        )

    def condense(self, question: str, history: Sequence[Message]) -> str:
        """Return a follow-up question as one that stands alone, by the generator or by rules.

        Raises:
            ModelError: If the generator is asked and fails.
        """
        from rag.condense import condense, condense_with_model

        settings = self.settings
        if settings.condense == "rules" or settings.generator == "extractive":
            return condense(question, history)
        return condense_with_model(
            lambda messages: self.talker.say(messages).text, question, history
        ).text

    def expand(self, hits: Sequence[Hit]) -> Sequence[Hit]:
        """Return passages widened by context_expansion tokens of their sections.

        All together they take at most half of prompt_tokens, unless the passages alone do.

        Raises:
            StorageError: If the database cannot be read.
        """
        settings = self.settings
        if not settings.context_expansion or not hits:
            return hits
        from rag.expand import expand_hits
        from rag.store.surroundings import Surroundings

        return expand_hits(
            hits,
            around=Surroundings(self.db).around,
            count_tokens=self.tokens.count,
            tokens=settings.context_expansion,
            budget=settings.prompt_tokens // 2,
        )

    @once
    def _generator(self) -> _Generator:
        settings = self.settings
        if settings.generator == "chatglm3":
            model, count, budget = make_chatglm3(settings)
            if budget < settings.prompt_tokens:  # the model's context is the limit
                return _Generator(model, count, budget, "lower generator_max_tokens")
            return _Generator(model, count, budget)
        from rag.chat_models import openai_chat_model
        from rag.endpoint_errors import endpoint_errors

        return _Generator(
            openai_chat_model(settings),
            count_tokens=lambda text: self.tokens.count([text])[0],
            budget=settings.prompt_tokens,
            errors=partial(endpoint_errors, settings.generator_url),
        )

    def index_folder(self, store: Store) -> Path:
        """Where a store's indexes keep their files; safe to delete."""
        return self.settings.indexes_folder / store.id

    def open(self, name: str) -> OpenStore:
        """Open a store for searching and asking.

        Raises:
            UnknownStore: If there is none of that name, or it never held a document.
            IndexMismatch: If its vectors come from another embedder than the one now set.
        """
        store = self.catalog.get(name)
        check_embedder(store, self.embedder.fingerprint)
        if store.seq() == 0:
            raise UnknownStore(
                f"Store {name!r} holds no documents yet.",
                do=f"`youju ingest PATH --store {name}` adds some.",
            )
        return OpenStore(self, store)

    def writable(self, name: str, chunker: str) -> Store:
        """Return the store, made now if it does not exist, for documents to be added.

        Raises:
            UsageError: If the name cannot be one.
            IndexMismatch: If it was made by another embedder or chunker than now set.
        """
        if name.startswith(SHADOW_PREFIX):
            raise UsageError(
                f"Store name {name!r} begins with {SHADOW_PREFIX!r}, which hidden stores do.",
                do="Give another name.",
            )
        fingerprint = self.embedder.fingerprint
        store = self.catalog.create(
            name, embedder=fingerprint, dim=self.embedder.dim, chunker=chunker
        )
        check_embedder(store, fingerprint)
        check_chunker(store, chunker)
        return store


class OpenStore:
    """A store with its indexes, kept in step with the database at every call."""

    def __init__(self, rag: Rag, store: Store) -> None:
        self._rag = rag
        self.store = store

    @cached_property
    def dense(self) -> DenseFollower:
        """The dense index, followed."""
        settings = self._rag.settings
        make = partial(
            FaissIndex,
            self.store.dim,
            device=settings.index_device,
            scratch_mib=settings.index_scratch_mib,
            threads=settings.threads,
        )
        return DenseFollower(self.store, self._rag.index_folder(self.store), make)

    @cached_property
    def lexical(self) -> LexicalFollower:
        """The lexical index, followed."""
        from rag.index.lexical import TantivyIndex

        index = TantivyIndex.open(
            self._rag.index_folder(self.store) / "lexical",
            analyzer=self._rag.analyzer,
            lock_timeout_s=self._rag.settings.database_timeout,
            gram_weight=self._rag.settings.bm25_gram_weight,
        )
        return LexicalFollower(self.store, index)

    def refresh(self) -> None:
        """Bring both indexes up to date and save them.

        Raises:
            StorageError: If they cannot be written; nothing is lost, they are caches.
        """
        self.lexical.refresh()
        self.dense.refresh()
        self.dense.save()

    def save(self) -> None:
        """Save the dense index if it is in use and has changed; the lexical one saves itself.

        Raises:
            StorageError: If it cannot be written; nothing is lost, it is a cache.
        """
        if "dense" in self.__dict__:
            self.dense.save()

    def purge(self) -> None:
        """Bring the files of both indexes up to date, with no trace of what was removed.

        Raises:
            UnknownStore, IndexMismatch: If the store has been deleted or embedded anew.
            StorageError: If they cannot be written.
        """
        self.lexical.refresh().compact()
        self.dense.purge()

    def retriever(self, system: System | None = None, *, rerank: bool = True) -> Retriever:
        """Return a retriever over the store as it is now, with the reranker if there is one."""
        from rag.build_search import make_retriever

        settings = self._rag.settings
        system = system or settings.system
        return make_retriever(
            settings,
            embedder=lambda: self._rag.embedder,
            tokens=self._rag.tokens,
            dense=self.dense.refresh() if system != "bm25" else None,
            lexical=self.lexical.refresh() if system != "dense" else None,
            chunks_by_id=self.store.chunks,
            system=system,
            reranker=self._rag.reranker if rerank else None,
        )

    def search(self, query: str, top_k: int | None = None) -> list[Hit]:
        """Return up to top_k passages, best first; [] means that nothing matched.

        Raises:
            QueryError: If the query is empty or too long.
            ModelError: If the embedder or the reranker fails.
            StorageError: If the store cannot be read.
        """
        from rag.chain import checked_question

        checked = checked_question(query, self._rag.settings.max_question_chars)
        return self.retriever().search(checked, top_k or self._rag.settings.top_k)

    def chain(self) -> Runnable[Question, Answer]:
        """Return the LangChain chain that `ask` runs; it can be composed further."""
        return self._steps().runnable()

    def ask(
        self,
        question: str,
        top_k: int | None = None,
        history: Sequence[Message] = (),
        options: AnswerOptions | None = None,
    ) -> Answer:
        """Answer a question from the store, or refuse; raises as `search` does."""
        return self.chain().invoke(self._question(question, top_k, history, options))

    def ask_stream(
        self,
        question: str,
        top_k: int | None = None,
        history: Sequence[Message] = (),
        options: AnswerOptions | None = None,
    ) -> Iterator[Retrieved | AnswerPiece]:
        """Do what `ask` does in pieces: what was found, text deltas, the answer.

        Raises as `ask` does: what is wrong with the question or the store before anything is
        yielded, what happens to the model at any step. Close the iterator to stop early.
        """
        return self._steps().stream_answer(self._question(question, top_k, history, options))

    def _question(
        self,
        text: str,
        top_k: int | None,
        history: Sequence[Message],
        options: AnswerOptions | None,
    ) -> Question:
        from rag.answering import DEFAULT_OPTIONS
        from rag.chain import Question

        top_k = top_k or self._rag.settings.top_k
        return Question(text, top_k, tuple(history), options or DEFAULT_OPTIONS)

    def _steps(self) -> Chain:
        from rag.chain import Chain

        return Chain(
            lambda query, top_k: self.retriever().search(query, top_k),
            self._rag.answerer,
            page_of=lambda cited: self.store.page_of(cited.file, cited.start),
            max_question_chars=self._rag.settings.max_question_chars,
            condense=self._rag.condense,
            expand=self._rag.expand,
        )
