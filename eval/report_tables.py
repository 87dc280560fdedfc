"""A report as sections of sentences and tables, every number written out.

Both the HTML and the Markdown show exactly this, so that they hold the same numbers. Nothing is
escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eval.report_data import AnswersResult, Fact, Report, SystemResult, WorstQuery
from eval.report_stats import differences, interval, percentile

DEPTHS = (1, 2, 3, 5, 10, 20, 50, 100)
PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows.
        header: Names of the columns.
        rows: Cells, as many in each as in the header; the first is the row's name.
        numbers: Whether all columns but the first hold numbers.
        marked: Rows that stand out.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = False
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Attributes:
        anchor: Its id in the document: letters, digits and hyphens.
        title: Its heading.
        notes: Sentences under the heading.
        warnings: Sentences that must not be missed.
        code: Lines for a shell, "" if none.
        figure: Name of its figure, "" if none; see eval.report_plots.
        tables: Its tables.
        parts: Sections within it.
    """

    anchor: str
    title: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code: str = ""
    figure: str = ""
    tables: tuple[Table, ...] = ()
    parts: tuple[Section, ...] = ()


def sections(report: Report) -> list[Section]:
    """Return all sections of a report in order."""
    found = [_retrieval(report)]
    if report.best:
        found.append(_recall(report))
        if len(report.measured) > 1:
            found.append(_pairs(report, report.best))
    found.append(_answers(report))
    if report.answers and report.answers.given:
        found.append(_calibration(report.answers))
    found += [_latency(report), _worst(report), _conditions(report)]
    return found


def summary(report: Report) -> str:
    """Return what was measured, as one sentence."""
    return (
        f"{report.queries:,} judged queries over {report.texts:,} texts, split {report.split}, "
        f"measured {report.made_at}."
    )


def _retrieval(report: Report) -> Section:
    names = tuple(report.best.metrics) if report.best else ("nDCG@10",)
    rows = [
        (
            system.name,
            *(_score(system.metrics[name]) if not system.failure else "failed" for name in names),
            f"{report.queries:,}",
        )
        for system in report.systems
    ]
    return Section(
        "retrieval",
        "Retrieval",
        notes=(
            "nDCG@10: gain of the first ten, later ranks count less, against the best order. "
            "recall@k: share of the relevant texts among the first k. MRR@10: 1 / rank of the "
            "first relevant text, 0 beyond 10. Means over all queries; a query for which nothing "
            "was found counts as 0.",
        ),
        warnings=tuple(
            f"{system.name} could not be measured: {system.failure}"
            for system in report.systems
            if system.failure
        ),
        tables=(
            Table("Systems", ("system", *names, "queries"), tuple(rows), numbers=True,
                  marked=frozenset(
                      number for number, system in enumerate(report.systems)
                      if system is report.best
                  )),
        ),
    )  # fmt: skip


def _recall(report: Report) -> Section:
    depths = [depth for depth in DEPTHS if depth <= len(report.measured[0].recall)]
    rows = [
        (system.name, *(_score(system.recall[depth - 1]) for depth in depths))
        for system in report.measured
    ]
    header = ("system", *(f"k = {depth}" for depth in depths))
    return Section(
        "recall",
        "Recall at k",
        notes=("How many of the relevant texts are among the first k found.",),
        figure="recall",
        tables=(Table(f"recall@k, {report.queries:,} queries", header, tuple(rows), numbers=True),),
    )


def _pairs(report: Report, best: SystemResult) -> Section:
    rows = []
    for other in report.measured:
        if other is not best:
            gaps = differences(best.ndcg, other.ndcg)
            better, worse = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
            rows.append(
                (
                    f"{best.name} against {other.name}",
                    f"{sum(gaps) / len(gaps):+.4f}",
                    f"{better:,}",
                    f"{len(gaps) - better - worse:,}",
                    f"{worse:,}",
                )
            )
    return Section(
        "queries",
        "Query by query",
        notes=(
            f"nDCG@10 of {best.name} less that of each other system, for every query, sorted: "
            f"above 0, {best.name} is better.",
        ),
        figure="pairs",
        tables=(
            Table(
                f"Differences in nDCG@10, {report.queries:,} queries",
                ("systems", "mean difference", "better", "equal", "worse"),
                tuple(rows),
                numbers=True,
            ),
        ),
    )


def _answers(report: Report) -> Section:
    answers = report.answers
    if answers is None:
        return Section("answers", "Answers", notes=(report.without_answers or "Not measured.",))
    warnings = []
    if answers.failure:
        failed = f"{answers.failed:,} of {answers.questions:,} questions met an error"
        warnings = [f"{failed if answers.failed else 'Not measured'}: {answers.failure}"]
    notes = (
        f"Questions asked over all texts of the set, answered by {answers.answerer} from passages "
        f"found by {answers.system}. An answer is right if it holds a right answer; refused "
        "questions count as wrong.",
    )
    if not answers.questions:
        return Section("answers", "Answers", notes, tuple(warnings))
    citations = answers.citations / max(1, answers.given)
    rows = (
        ("right (accuracy)", *_share(answers.right, answers.questions)),
        ("right, of those given", *_share(answers.right, answers.given)),
        ("refused", *_share(answers.refused, answers.questions)),
        ("failed", *_share(answers.failed, answers.questions)),
        ("cites a relevant text, of those given", *_share(answers.cited, answers.given)),
        ("citations of an answer, mean", f"{citations:.2f}", f"{answers.given:,} answers", ""),
    )
    tables = [Table("Answers", ("measure", "value", "of", "95 % interval"), rows, numbers=True)]
    if answers.wrong:
        tables.append(
            Table(
                f"Wrong answers, the most confident first ({len(answers.wrong):,} of "
                f"{answers.questions - answers.right - answers.failed:,})",
                ("question", "asked", "expected, one of", "given", "confidence"),
                tuple(
                    (
                        wrong.id,
                        wrong.question,
                        " / ".join(wrong.expected),
                        ("(refused) " if wrong.refused else "") + wrong.given,
                        f"{wrong.confidence:.3f}",
                    )
                    for wrong in answers.wrong
                ),
            )
        )
    return Section("answers", "Answers", notes, tuple(warnings), tables=tuple(tables))


def _calibration(answers: AnswersResult) -> Section:
    rows = tuple(
        (
            f"{each.low:.1f} to {each.high:.1f}",
            f"{each.count:,}",
            f"{each.confidence:.3f}" if each.count else "",
            *_share(each.right, each.count),
        )
        for each in answers.calibration.bins
    )
    return Section(
        "calibration",
        "Calibration of the confidence",
        notes=(
            f"The {answers.given:,} answers given, by their confidence: if it were the chance of "
            "being right, all points would lie on the diagonal. Expected calibration error: "
            f"{answers.calibration.expected_error:.4f}.",
        ),
        figure="calibration",
        tables=(
            Table(
                "Confidence against share right",
                ("confidence", "answers", "mean confidence", "share right", "right of",
                 "95 % interval"),
                rows,
                numbers=True,
            ),
        ),
    )  # fmt: skip


def _latency(report: Report) -> Section:
    timed = [(system.name, system.latencies_ms) for system in report.measured]
    if report.answers and report.answers.latencies_ms:
        timed.append((f"answers ({report.answers.answerer})", report.answers.latencies_ms))
    rows = tuple(
        (
            name,
            f"{len(times):,}",
            *(f"{percentile(times, share):.1f}" for _, share in PERCENTILES),
        )
        for name, times in timed
        if times
    )
    header = ("system", "timed", *(f"{name}, ms" for name, _ in PERCENTILES))
    return Section(
        "latency",
        "Latency",
        notes=(
            "Queries one after the other, with nothing else asked of this process: embedding, "
            "searching and fetching the passages; for answers, writing them, too.",
        ),
        figure="latency" if rows else "",
        tables=(Table("Milliseconds of a query", header, rows, numbers=True),) if rows else (),
    )


def _worst(report: Report) -> Section:
    if report.best is None:
        return Section("worst", "Worst queries", notes=("No system was measured.",))
    name = report.best.name
    note = (
        f"The queries with the lowest nDCG@10 of {name}, the best system."
        if report.worst
        else f"Every query has nDCG@10 = 1 with {name}."
    )
    parts = tuple(_query(number, query, name) for number, query in enumerate(report.worst, 1))
    return Section("worst", "Worst queries", notes=(note,), parts=parts)


def _query(number: int, query: WorstQuery, best: str) -> Section:
    scores = ", ".join(f"{name} {_score(score)}" for name, score in query.scores.items())
    systems = tuple(query.scores)
    relevant = tuple(
        (
            text.id,
            str(text.grade),
            *(_rank(text.ranks.get(name)) for name in systems),
            _titled(text.title, text.beginning),
        )
        for text in query.relevant
    )
    found = tuple(
        (
            str(text.rank),
            text.id,
            f"yes, grade {text.grade}" if text.grade else "no",
            _titled(text.title, text.beginning),
        )
        for text in query.found
    )
    shown = f"{len(query.relevant):,} of {query.relevant_in_all:,}"
    return Section(
        f"worst-{number}",
        f"{number}. Query {query.id}",
        notes=(f"Asked: {query.text}", f"nDCG@10: {scores}."),
        tables=(
            Table(
                f"What should have been found ({shown})",
                ("text", "grade", *(f"{name} rank" for name in systems), "beginning"),
                relevant,
            ),
            Table(
                f"What {best} found first" + ("" if found else ": nothing"),
                ("rank", "text", "relevant", "beginning"),
                found,
                marked=frozenset(row for row, text in enumerate(query.found) if text.grade),
            ),
        ),
    )


def _conditions(report: Report) -> Section:
    return Section(
        "conditions",
        "How it was measured",
        notes=(
            f"Measured {report.made_at}. Seed of all draws: {report.seed}. To repeat it, with "
            "secrets such as API keys added to the environment:",
        ),
        code=report.command,
        tables=(
            _facts("Versions and machine", ("what", "version"), report.versions),
            _facts("Files of the set", ("file", "sha256", "bytes"), report.files),
            _facts("Settings in force", ("setting", "value", "from"), report.settings),
        ),
    )


def _facts(caption: str, header: tuple[str, ...], facts: Iterable[Fact]) -> Table:
    rows = ((fact.name, fact.value, fact.more)[: len(header)] for fact in facts)
    return Table(caption, header, tuple(rows))


def _share(part: int, whole: int) -> tuple[str, str, str]:
    """Return a share, what it is of, and its interval, as three cells."""
    if not whole:
        return ("", "0 of 0", "")
    low, high = interval(part, whole)
    return (
        f"{100 * part / whole:.1f} %",
        f"{part:,} of {whole:,}",
        f"{100 * low:.1f} to {100 * high:.1f} %",
    )


def _score(value: float) -> str:
    return f"{value:.4f}"


def _rank(rank: int | None) -> str:
    return "not found" if rank is None else str(rank)


def _titled(title: str, text: str) -> str:
    return f"{title}: {text}" if title else text
