"""Which settings are tuned, and within which bounds: pure data, no search and no measuring.

A setting that cannot change the score of the set at hand is left out, with the reason. The bounds
are widened so that the value now in force always lies in them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rag.config import Settings
from rag.errors import UsageError

Value: TypeAlias = int | float | str
Values: TypeAlias = dict[str, Value]

TUNABLE = (
    "system",
    "fusion_bm25_weight",
    "fusion_least_coverage",
    "fusion_rrf_k",
    "candidates",
    "bm25_gram_weight",
    "reranker",
    "reranker_depth",
    "chunk_tokens",
    "chunk_overlap",
)
"""Names that --only takes. Two or more of them can be inert together with the others' values."""

_FUSED = ("hybrid", "rrf")
_CHUNK_TOKENS = (80, 120, 160, 220, 300, 400, 512)
_CHUNK_OVERLAP = (0, 20, 40, 60)


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that is tuned.

    Attributes:
        name: Of the setting.
        choices: What it may be; empty if it is a number between two bounds.
        low, high: The bounds, both possible; int for a whole number.
        log: Drawn evenly in its logarithm; low is > 0 then.
        step: Distance of possible values from `low`, 0: any.
        when: (setting, values): it is tuned only where that setting has one of those.
    """

    name: str
    choices: tuple[Value, ...] = ()
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    step: float = 0
    when: tuple[str, tuple[Value, ...]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what makes it different from another."""
        bounds = {"choices": list(self.choices)} if self.choices else self._bounds()
        return bounds | {"when": self.when and [self.when[0], list(self.when[1])]}

    def _bounds(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What of a set decides which settings matter.

    Attributes:
        chinese: Some query holds Chinese.
        unread: Some query is not wholly readable for the embedder.
        documents: There are documents to be cut.
        max_tokens: What the embedder reads of a passage, tokens.
    """

    chinese: bool
    unread: bool
    documents: bool
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that are tuned.

    Attributes:
        settings: Those in force; they hold for all that is not tuned.
        knobs: In an order in which what decides comes before what depends on it.
        left_out: Setting -> why it is not tuned.
    """

    settings: Settings
    knobs: tuple[Knob, ...]
    left_out: Mapping[str, str]

    def draw(self, pick: Callable[[Knob], Value]) -> Values:
        """Return a value of every knob that has an effect together with those before it."""
        values: Values = {}
        for knob in self.knobs:
            if knob.when is not None:
                name, wanted = knob.when
                if values.get(name, getattr(self.settings, name)) not in wanted:
                    continue
            values[knob.name] = pick(knob)
        return values

    def applied(self, values: Mapping[str, Value]) -> Settings:
        """Return the settings in force with `values`, validated."""
        return Settings(**(dict(self.settings) | dict(values)))

    def starts(self) -> list[Values]:
        """Return what is tried first: the settings in force, then the defaults if they differ."""
        now = self.draw(lambda knob: _in_force(self.settings, knob.name))
        default = self.draw(lambda knob: default_of(knob.name))
        inside = all(
            _holds(knob, default[knob.name]) for knob in self.knobs if knob.name in default
        )
        return [now] if default == now or not inside else [now, default]

    def to_json(self) -> dict[str, Any]:
        """Return what makes it different from another."""
        return {knob.name: knob.to_json() for knob in self.knobs}


def default_of(name: str) -> Value:
    """Return a setting's default."""
    value: Value = Settings.model_fields[name].get_default()
    return value


def make_space(settings: Settings, facts: SetFacts, only: Collection[str] = ()) -> Space:
    """Return what is tuned for a set.

    Args:
        settings: Those in force.
        facts: About the set.
        only: Names out of `TUNABLE`; empty: all that matter.

    Raises:
        UsageError: If a name cannot be tuned, or none of those asked for matters here.
    """
    for name in only:
        if name not in TUNABLE:
            raise UsageError(
                f"Cannot tune {name!r:.80}.", do=f"Expected of --only: {', '.join(TUNABLE)}."
            )
    left_out = _inert(settings, facts)
    wanted = [name for name in TUNABLE if not only or name in only]
    knobs = tuple(_knob(name, settings, facts) for name in wanted if name not in left_out)
    if not knobs:
        why = "; ".join(f"{name}: {left_out[name]}" for name in wanted)
        raise UsageError(f"Nothing to tune ({why}).", do="Leave out --only, or change it.")
    untouched = {name: "not named by --only" for name in TUNABLE if name not in wanted}
    return Space(settings, knobs, left_out | untouched)


def _inert(settings: Settings, facts: SetFacts) -> dict[str, str]:
    """Return the settings that cannot change a score here, each with the reason."""
    why = {
        "top_k": "the score looks at a fixed depth",
        "refusal_threshold": "it decides on answers, not on rankings",
        "bm25 k1 and b": "tantivy's are fixed at 1.2 and 0.75",
    }
    if not facts.chinese:
        why["bm25_gram_weight"] = "no query holds Chinese"
    if not facts.unread:
        why["fusion_least_coverage"] = "the embedder can read every query"
    if settings.reranker == "none":
        why["reranker"] = why["reranker_depth"] = "no reranker is set"
    if not facts.documents:
        why["chunk_tokens"] = why["chunk_overlap"] = "the set's passages are fixed (no --corpus)"
    return why


def _knob(name: str, settings: Settings, facts: SetFacts) -> Knob:
    hybrid, ranked = ("system", ("hybrid",)), ("system", ("rrf",))
    lexical = ("system", (*_FUSED, "bm25"))
    on = ("reranker", (settings.reranker,))
    sizes = [size for size in _CHUNK_TOKENS if size <= facts.max_tokens]
    plain = {
        "system": Knob(name, choices=_FUSED),
        "fusion_bm25_weight": Knob(name, low=0.05, high=3.0, log=True, when=hybrid),
        "fusion_least_coverage": Knob(name, low=0.0, high=1.0, when=hybrid),
        "fusion_rrf_k": Knob(name, low=1, high=200, log=True, when=ranked),
        "candidates": Knob(name, low=20, high=400, log=True, when=("system", _FUSED)),
        "bm25_gram_weight": Knob(name, low=0.0, high=1.0, step=0.05, when=lexical),
        "reranker": Knob(name, choices=("none",)),
        "reranker_depth": Knob(name, low=10, high=100, log=True, when=on),
        "chunk_tokens": Knob(name, choices=tuple(sizes)),
        "chunk_overlap": Knob(name, choices=_CHUNK_OVERLAP),
    }
    return _widened(plain[name], _in_force(settings, name))


def _widened(knob: Knob, value: Value) -> Knob:
    """Return the knob so that it holds `value`."""
    if _holds(knob, value):
        return knob
    if knob.choices:
        known = {value, *knob.choices}
        ordered = sorted(known, key=lambda one: (isinstance(one, str), one))
        return Knob(knob.name, choices=tuple(ordered), when=knob.when)
    assert not isinstance(value, str)
    low, high = min(knob.low, value), max(knob.high, value)
    return Knob(knob.name, low=low, high=high, log=knob.log and low > 0, when=knob.when)


def _holds(knob: Knob, value: Value) -> bool:
    if knob.choices:
        return value in knob.choices
    if isinstance(value, str) or not knob.low <= value <= knob.high:
        return False
    steps = (value - knob.low) / knob.step if knob.step else 0.0
    return abs(steps - round(steps)) < 1e-6


def _in_force(settings: Settings, name: str) -> Value:
    value: Value = getattr(settings, name)
    return value
