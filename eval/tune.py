"""Tunes settings on one half of a set's queries, and says what the other half thinks of the result.

The search sees the tune half only. At its end the settings in force and the best ones found are
scored on the held-out half, once. Where the parts are: eval.tune_space (what is tuned),
eval.tune_measure (scores), eval.tune_study (the search), eval.tune_report (the gain, the file).
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.data import JudgedQuery, RetrievalSet, read_set
from eval.metrics import METRICS
from eval.retrieval import opened_set
from eval.tune_chunks import CutCorpus, with_settings
from eval.tune_measure import Measure, NamesOf, OpenFor, Task
from eval.tune_report import (
    Gain,
    TuneReport,
    check_out,
    paired_gain,
    settings_file,
    write_out,
)
from eval.tune_space import TUNABLE, SetFacts, Space, make_space
from eval.tune_study import opened_study, require_optuna, search
from rag.build import OpenStore, Rag
from rag.config import Settings
from rag.errors import EvalDataError, UsageError
from rag.language import HAN
from rag.terminal import Advance, Progress


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What a run is asked for.

    Attributes:
        trials: Trials in all, those of earlier runs of the same study included, >= 1.
        seconds: No trial begins later; None: no limit.
        metric: A name out of eval.metrics.METRICS.
        tune_share: Share of the queries that the search sees, in (0, 1).
        seed: Of the split, the draws and the interval, >= 0.
        study: The file of the trials; None: one under home/eval, named by what was asked.
        out: Where a settings file goes; None: nowhere.
        only: Settings to tune; empty: all that matter.
        split: Judgements: qrels/<split>.tsv.
    """

    trials: int = 60
    seconds: float | None = None
    metric: str = "nDCG@10"
    tune_share: float = 0.5
    seed: int = 0
    study: Path | None = None
    out: Path | None = None
    only: Collection[str] = ()
    split: str = "test"


@dataclass(frozen=True, slots=True)
class _Texts:
    """The set's texts: how their store is opened, what a passage stands for, their content."""

    open_for: OpenFor
    names_of: NamesOf
    sha256: str


def tune(
    rag: Rag,
    data: Path,
    options: TuneOptions,
    *,
    corpus: Path | None = None,
    progress: Advance = lambda _progress: None,
) -> TuneReport:
    """Search for better settings than those in force, and score both on held-out queries.

    Args:
        rag: The parts, and the settings in force; its own stores are not touched.
        data: A folder in BEIR layout.
        options: What is asked for.
        corpus: Documents to be cut in different ways; None: the set's texts as they are.
        progress: Called before each step.

    Raises:
        MissingExtra: If Optuna is not installed.
        EvalDataError: If the set is not as it should be, or too small to be split.
        UsageError: If the metric or a name is unknown, or the study is another's.
        PathError: If `out` cannot be written.
        ModelError, StorageError: As a search does.
        KeyboardInterrupt: By Ctrl-C before the first trial is complete, or after the search.
    """
    require_optuna()
    if options.metric not in METRICS:
        raise UsageError(
            f"Unknown metric {options.metric!r:.80}.", do=f"Expected one of {', '.join(METRICS)}."
        )
    if options.out is not None:
        check_out(options.out)
    found = read_set(data, options.split)
    halves = split_queries(found.queries, options.tune_share, options.seed)
    texts = _texts(rag, found, corpus, progress)

    def measure(queries: Sequence[JudgedQuery], depth: int) -> Measure:
        places = int(options.metric.rpartition("@")[2])
        qrels = {query.id: found.qrels[query.id] for query in queries}
        task = Task(queries, qrels, options.metric, places, max(depth, places))
        return Measure(rag, task, texts.open_for, texts.names_of)

    space = make_space(rag.settings, _facts(rag, found, corpus is not None), options.only)
    identity = _identity(rag, found, texts, space, options)
    path = options.study or _default_study(rag, identity)
    begin = time.perf_counter()
    with opened_study(path, identity) as study:
        tuning = measure(halves[0], _depth(space))
        trials = search(
            study,
            space,
            lambda values: tuning.score(space.applied(values)),
            trials=options.trials,
            seconds=options.seconds,
            seed=options.seed,
            progress=lambda done: progress(Progress(done, options.trials, "trials")),
        )
    start, best = trials.trials[0], trials.best
    tune_gain = _gain(
        tuning.scores(space.applied(start.values)),
        tuning.scores(space.applied(best.values)),
        options.seed,
    )
    seconds = time.perf_counter() - begin
    progress(Progress(options.trials, options.trials, "held-out half"))
    held_out = measure(halves[1], _depth(space))
    before = held_out.scores(space.applied(start.values))
    after = held_out.scores(space.applied(best.values))
    report = TuneReport(
        data=found.name,
        metric=options.metric,
        tune_queries=len(halves[0]),
        held_out_queries=len(halves[1]),
        trials=len(trials.trials),
        stopped=trials.stopped,
        start=start.values,
        best=best.values,
        tune=(start.score, best.score),
        held_out=(fmean(before.values()), fmean(after.values())),
        tune_gain=tune_gain,
        held_out_gain=_gain(before, after, options.seed),
        left_out=space.left_out,
        embedder=rag.embedder.fingerprint,
        study=path,
        seconds=seconds,
    )
    if options.out is not None:
        write_out(options.out, settings_file(report))
    return report


def split_queries(
    queries: Sequence[JudgedQuery], share: float, seed: int
) -> tuple[list[JudgedQuery], list[JudgedQuery]]:
    """Return the tune half and the held-out half, drawn at random, each in file order.

    Args:
        queries: All judged queries.
        share: Of the tune half, in (0, 1); each half gets one query at least.
        seed: Of the draw.

    Raises:
        EvalDataError: If there are fewer than two queries.
        ValueError: If the share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"got share {share}, expected more than 0 and less than 1")
    if len(queries) < 2:
        raise EvalDataError(
            f"The set has {len(queries)} judged query.", do="Expected two at least, to be split."
        )
    size = min(max(round(share * len(queries)), 1), len(queries) - 1)
    chosen = set(random.Random(seed).sample(range(len(queries)), size))
    tune = [query for number, query in enumerate(queries) if number in chosen]
    return tune, [query for number, query in enumerate(queries) if number not in chosen]


def _gain(before: Mapping[str, float], after: Mapping[str, float], seed: int) -> Gain:
    return paired_gain([after[id_] - before[id_] for id_ in before], seed)


def _texts(rag: Rag, data: RetrievalSet, corpus: Path | None, progress: Advance) -> _Texts:
    if corpus is not None:
        cut = CutCorpus(rag, corpus, data, progress)
        return _Texts(
            lambda settings: cut.opened(with_settings(rag, settings)), cut.names_of, cut.sha256
        )

    @contextmanager
    def opened(settings: Settings) -> Iterator[OpenStore]:
        with opened_set(with_settings(rag, settings), data, progress) as store:
            yield store

    return _Texts(opened, lambda chunk: (chunk.file,), data.corpus.sha256)


def _facts(rag: Rag, data: RetrievalSet, documents: bool) -> SetFacts:
    """Look at all queries, of both halves: what they say is no judgement."""
    texts = [query.text for query in data.queries]
    return SetFacts(
        chinese=any(re.search(f"[{HAN}]", text) for text in texts),
        unread=bool((rag.tokens.coverage(texts) < 1).any()),
        documents=documents,
        max_tokens=rag.tokens.max_tokens,
    )


def _depth(space: Space) -> int:
    """Return how deep any trial looks into an index."""
    highest = [
        int(knob.high) for knob in space.knobs if knob.name in ("candidates", "reranker_depth")
    ]
    return max(space.settings.candidates, space.settings.reranker_depth, *highest)


def _identity(
    rag: Rag, data: RetrievalSet, texts: _Texts, space: Space, options: TuneOptions
) -> dict[str, Any]:
    """Return what must be equal for two trials to be comparable."""
    settings = rag.settings
    reader = f"{settings.reranker}\n{settings.reranker_model}\n{settings.reranker_url}"
    queries = [
        (query.id, query.text, sorted(data.qrels[query.id].items())) for query in data.queries
    ]
    return {
        "set": _digest(repr(queries) + texts.sha256),
        "metric": options.metric,
        "tune share": options.tune_share,
        "seed": options.seed,
        "search space": space.to_json(),
        "settings in force": {name: getattr(settings, name) for name in TUNABLE},
        "embedder": rag.embedder.fingerprint,
        "reranker": _digest(reader),  # its URL may hold a password
    }


def _default_study(rag: Rag, identity: dict[str, Any]) -> Path:
    name = _digest(json.dumps(identity, sort_keys=True))
    return rag.settings.home / "eval" / "tune" / f"{name}.db"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
