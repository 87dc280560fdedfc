"""The search itself: Optuna over a study in an SQLite file that survives kills.

A trial's draw depends on the seed, on how many trials are complete and on what they scored; so an
interrupted search that is taken up again goes through the same settings as one that was not.
Trials enter the file when they are complete, each whole or not at all: none is ever left half done.
What is measured is passed in as a function.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from eval.tune_space import Knob, Space, Value, Values
from rag.errors import EvalDataError, MissingExtra, StorageError, UsageError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

NAME = "youju eval tune"


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that was scored: the settings tried, and their score on the tune half."""

    values: Values
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """Trials in the order in which they were scored; `stopped`: by Ctrl-C."""

    trials: tuple[Trial, ...]
    stopped: bool

    @property
    def best(self) -> Trial:
        """The trial of the highest score, the earliest of equals."""
        return max(self.trials, key=lambda trial: trial.score)


def require_optuna() -> None:
    """Say what to install if Optuna is absent.

    Raises:
        MissingExtra: If it is.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise MissingExtra("`youju eval tune`", "eval") from None


@contextmanager
def opened_study(path: Path, identity: Mapping[str, Any]) -> Iterator[optuna.Study]:
    """Open a study, made now if the file is missing; one process at a time.

    Args:
        path: An SQLite file; it appears whole or not at all.
        identity: JSON values: what must be equal for trials to be comparable.

    Raises:
        EvalDataError: If the file is something else.
        UsageError: If the study is of another identity, or another process uses it.
        StorageError: If it cannot be made or read.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=0)
        with lock:
            if not path.exists():
                _make(path, json.dumps(identity, sort_keys=True))
            _check_file(path)
            with _stored(path) as storage:
                study = optuna.load_study(study_name=NAME, storage=storage)
                _check_identity(path, json.loads(study.user_attrs["identity"]), identity)
                yield study
    except Timeout:
        raise UsageError(
            f"Another process is tuning with {path}.", do="Wait for it, or give another --study."
        ) from None
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
        raise StorageError(
            f"The study {path} cannot be used: {reason}.",
            do="Check free space and permissions, or give another --study.",
        ) from error


def search(
    study: optuna.Study,
    space: Space,
    score: Callable[[Values], float],
    *,
    trials: int,
    seconds: float | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _done: None,
) -> Found:
    """Score settings until `trials` are complete, those of earlier runs counted.

    The settings in force come first, then the defaults if they differ, then what Optuna's TPE
    sampler draws. Ctrl-C ends the search, not the program, once a trial is complete.

    Args:
        study: Opened, maximising.
        space: What is tuned.
        score: Of settings, higher is better.
        trials: >= 1.
        seconds: No trial is begun later than so many seconds from now, but for the first.
        seed: Of the draws, >= 0.
        progress: Called before each trial with the number complete.
    """
    import optuna

    deadline = None if seconds is None else time.monotonic() + seconds
    complete = (optuna.trial.TrialState.COMPLETE,)
    known = study.get_trials(deepcopy=False, states=complete)
    done = [Trial(trial.user_attrs["values"], trial.value or 0.0) for trial in known]
    memory = optuna.create_study(direction="maximize")
    memory.add_trials(known)
    starts = space.starts()
    try:
        while len(done) < trials:
            if done and deadline is not None and time.monotonic() >= deadline:
                break
            progress(len(done))
            if len(done) < len(starts):
                trial = _given(space, starts[len(done)], score)
                memory.add_trial(trial)
            else:
                trial = _drawn(memory, space, score, seed)
            study.add_trial(trial)
            done.append(Trial(trial.user_attrs["values"], trial.value))
    except KeyboardInterrupt:
        if not done:
            raise
        return Found(tuple(done), stopped=True)
    return Found(tuple(done), stopped=False)


def _given(space: Space, values: Values, score: Callable[[Values], float]) -> FrozenTrial:
    """Score settings that are not drawn."""
    import optuna

    return optuna.trial.create_trial(
        value=score(values),
        params=dict(values),
        distributions={
            knob.name: _distribution(knob) for knob in space.knobs if knob.name in values
        },
        user_attrs={"values": values},
    )


def _drawn(
    memory: optuna.Study, space: Space, score: Callable[[Values], float], seed: int
) -> FrozenTrial:
    """Draw settings from what the trials so far say, and score them."""
    memory.sampler = _sampler(seed, len(memory.trials))
    trial = memory.ask()
    values = space.draw(lambda knob: _suggested(trial, knob))
    trial.set_user_attr("values", values)
    return memory.tell(trial, score(values))


def _sampler(seed: int, done: int) -> optuna.samplers.TPESampler:
    import optuna

    digest = hashlib.sha256(f"{seed} {done}".encode()).digest()
    return optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4]), n_startup_trials=12)


def _suggested(trial: optuna.Trial, knob: Knob) -> Value:
    if knob.choices:
        chosen: Value = trial.suggest_categorical(knob.name, knob.choices)
        return chosen
    if isinstance(knob.low, int) and isinstance(knob.high, int):
        return int(trial.suggest_int(knob.name, knob.low, knob.high, log=knob.log))
    step = knob.step or None
    found = trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log, step=step)
    return float(f"{found:.3g}")


def _distribution(knob: Knob) -> Any:  # noqa: ANN401
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if knob.choices:
        return CategoricalDistribution(knob.choices)
    if isinstance(knob.low, int) and isinstance(knob.high, int):
        return IntDistribution(knob.low, knob.high, log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log, step=knob.step or None)


@contextmanager
def _stored(path: Path) -> Iterator[Any]:
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.pool import NullPool

    url = URL.create("sqlite", database=str(path.absolute())).render_as_string()
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _make(path: Path, identity: str) -> None:
    """Make an empty study beside its place, and move it there once it is whole."""
    import optuna

    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with _stored(temporary) as storage:
        study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
        study.set_user_attr("identity", identity)
    temporary.replace(path)


def _check_file(path: Path) -> None:
    """Refuse a file that is no study, before anything is written into it."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            rows = connection.execute("SELECT study_name FROM studies").fetchall()
    except sqlite3.Error:
        rows = []
    if (NAME,) not in rows:
        raise EvalDataError(
            f"{path} is not a study of `youju eval tune`.", do="Give --study another name."
        )


def _check_identity(path: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = sorted(
        key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key)
    )
    if differing:
        raise UsageError(
            f"The study {path} was begun with another {', another '.join(differing)}.",
            do="Give another --study, or the same options as then.",
        )
