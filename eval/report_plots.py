"""A report's figures as SVG that stands inside an HTML page.

Colours are variables of the page's style sheet (--series-1, --line, the text's own), so that they
follow a dark or a light theme; letters stay text, in the page's font. The same report gives the
same bytes. matplotlib comes with the extra `eval`.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

from eval.report_data import AnswersResult, Report
from eval.report_stats import differences, interval
from rag.errors import MissingExtra

_SERIES = ("#a10001", "#a10002", "#a10003", "#a10004", "#a10005")
_TEXT, _LINE = "#b10001", "#b10002"
_STYLES = ("-", "--", "-.", ":", "-")
_COLOURS = {_TEXT: "currentColor", _LINE: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)
}
_LOOKS = {
    "svg.fonttype": "none", "svg.hashsalt": "youju", "font.family": "sans-serif", "font.size": 10.5,
    "text.color": _TEXT, "axes.labelcolor": _TEXT, "axes.edgecolor": _LINE, "axes.titlesize": 10.5,
    "xtick.color": _LINE, "ytick.color": _LINE, "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT, "axes.grid": True, "grid.color": _LINE, "grid.linewidth": 0.5,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
    "savefig.edgecolor": "none", "lines.linewidth": 2.0, "text.usetex": False,
    "text.parse_math": False, "axes.axisbelow": True, "axes.unicode_minus": True,
}  # fmt: skip
_WIDTH = 5.0
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_XLINK = "{http://www.w3.org/1999/xlink}href"


def check_installed() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        MissingExtra: If it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("`youju eval report`", "eval")


def figures(report: Report) -> dict[str, str]:
    """Return the figures that the report's sections name, as SVG elements by name.

    Raises:
        MissingExtra: If matplotlib is not installed.
    """
    check_installed()
    drawn: dict[str, str] = {}
    best, answers = report.best, report.answers
    if best:
        drawn["recall"] = _drawn("recall", "recall@k of each system", 3.4, _recall, report)
        others = len(report.measured) - 1
        if others:
            title = f"Differences in nDCG@10 between {best.name} and each other system"
            drawn["pairs"] = _drawn("pairs", title, 0.4 + 1.7 * others, _pairs, report)
    if best or (answers and answers.latencies_ms):
        drawn["latency"] = _drawn("latency", "Histogram of the latencies", 3.2, _latency, report)
    if answers and answers.given:
        title = "Confidence of the answers against the share that is right"
        drawn["calibration"] = _drawn("calibration", title, 4.4, _calibration, answers)
    return drawn


def _drawn(
    name: str, title: str, height: float, draw: Callable[[Any, Any], None], values: object
) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_LOOKS):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure, values)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata=_NO_METADATA)
    return _inline(out.getvalue(), name, title)


def _recall(figure: Any, report: Report) -> None:  # noqa: ANN401
    axes = figure.add_subplot()
    depth = len(report.measured[0].recall)
    for number, system in enumerate(report.systems):
        if not system.failure:
            axes.plot(
                range(1, depth + 1), system.recall, color=_colour(number), label=system.name,
                linestyle=_STYLES[number % len(_STYLES)],
            )  # fmt: skip
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= depth]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="k", ylabel="recall@k", ylim=(0, 1.02))
    axes.legend(loc="lower right")


def _pairs(figure: Any, report: Report) -> None:  # noqa: ANN401
    best = report.best
    assert best is not None
    rivals = [
        (number, system)
        for number, system in enumerate(report.systems)
        if not system.failure and system is not best
    ]
    panels = figure.subplots(len(rivals), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (number, other) in zip(panels, rivals, strict=True):
        gaps = differences(best.ndcg, other.ndcg)
        heights, edges = _merged(gaps)
        axes.stairs(heights, edges, fill=True, color=_colour(number), linewidth=0)
        axes.axhline(0, color=_TEXT, linewidth=0.8)
        axes.set(ylim=(-1.05, 1.05), xlim=(0, len(gaps)))
        axes.set_title(f"{best.name} less {other.name}", loc="left")
    panels[-1].set_xlabel("queries, sorted by the difference")


def _merged(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """Return bars of equal height that stand side by side as one."""
    heights: list[float] = []
    edges = [0]
    for place, value in enumerate(values, 1):
        if heights and heights[-1] == value:
            edges[-1] = place
        else:
            heights.append(value)
            edges.append(place)
    return heights, edges


def _latency(figure: Any, report: Report) -> None:  # noqa: ANN401
    timed = [
        (system.name, number, system.latencies_ms) for number, system in enumerate(report.systems)
    ]
    if report.answers:
        timed.append(("answers", len(_SERIES) - 1, report.answers.latencies_ms))
    timed = [row for row in timed if row[2]]
    every = [max(0.01, time) for _, _, times in timed for time in times]
    low, high = math.log10(min(every)) - 0.02, math.log10(max(every)) + 0.02
    edges = [10 ** (low + (high - low) * step / 30) for step in range(31)]
    axes = figure.add_subplot()
    for name, number, times in timed:
        counts = [0] * 30
        for time in times:
            place = int((math.log10(max(0.01, time)) - low) / (high - low) * 30)
            counts[min(place, 29)] += 1
        axes.stairs(
            [count / len(times) for count in counts], edges, color=_colour(number), linewidth=1.8,
            label=f"{name} ({len(times):,})", linestyle=_STYLES[number % len(_STYLES)],
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda _value, _place: "")
    axes.set(xlabel="milliseconds", ylabel="share of the queries")
    axes.legend(loc="upper right")


def _calibration(figure: Any, answers: AnswersResult) -> None:  # noqa: ANN401
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot((0, 1), (0, 1), color=_LINE, linewidth=1, linestyle="--")
    bins = answers.calibration.bins
    held = [each for each in bins if each.count]
    for each in held:
        axes.plot(
            (each.confidence, each.confidence), interval(each.right, each.count),
            color=_colour(0), linewidth=1.4,
        )  # fmt: skip
    axes.plot(
        [each.confidence for each in held],
        [each.share_right for each in held],
        color=_colour(0), marker="o", linestyle="none",
    )  # fmt: skip
    axes.set(ylabel="share right", xlim=(0, 1), ylim=(0, 1.02))
    edges = [bins[0].low, *(each.high for each in bins)]
    below.stairs(
        [each.count for each in bins],
        edges,
        fill=True,
        color=_colour(1),
        linewidth=0,
    )
    below.set(xlabel="confidence", ylabel="answers")


def _colour(number: int) -> str:
    return _SERIES[number % len(_SERIES)]


def _inline(written: bytes, name: str, title: str) -> str:
    """Return matplotlib's file as an element of a page: no ids of others, colours as variables."""
    root = ElementTree.fromstring(written)  # noqa: S314
    for element in root.iter():
        for child in [child for child in element if child.tag.endswith(("}style", "}metadata"))]:
            element.remove(child)
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            element.set("href" if key == _XLINK else key, _attribute(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
    label = ElementTree.Element("title", {"id": f"{name}-title"})
    label.text = title
    root.insert(0, label)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == _XLINK:
        return f"#{name}-{value.removeprefix('#')}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    value = re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", value)
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, variable)
    return value
