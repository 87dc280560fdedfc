"""The search: reproducible, and taken up again after a kill, Ctrl-C or another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="needs the extra eval")

from eval.tune_space import SetFacts, Space, Values, make_space
from eval.tune_study import NAME, Found, opened_study, search
from rag.config import load_settings
from rag.errors import EvalDataError, UsageError

FACTS = SetFacts(chinese=True, unread=True, documents=True, max_tokens=256)
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from test_eval_tune_study import hill, run
calls = 0
def dying(values):
    global calls
    calls += 1
    if calls == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return hill(values)
run(Path(sys.argv[1]), 16, dying)
"""


def space() -> Space:
    return make_space(load_settings(environ={}).settings, FACTS)


def hill(values: Values) -> float:
    """Best at rrf with k 20, and never as good with hybrid."""
    if values["system"] == "rrf":
        return 0.9 - abs(float(values["fusion_rrf_k"]) - 20) / 1000
    return 0.5 - abs(float(values["fusion_bm25_weight"]) - 0.4) / 100


def run(
    path: Path,
    trials: int,
    score: Callable[[Values], float] = hill,
    identity: dict[str, Any] | None = None,
    **others: Any,
) -> Found:
    with opened_study(path, identity or {"seed": 7}) as study:
        return search(study, space(), score, trials=trials, **{"seed": 7, **others})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What a search of 16 trials goes through that nothing interrupts."""
    return run(tmp_path_factory.mktemp("study") / "study.db", 16)


def test_the_settings_in_force_are_the_first_trial(whole: Found) -> None:
    assert whole.trials[0].values == space().starts()[0]
    assert whole.best.score >= whole.trials[0].score
    assert whole.best.values["system"] == "rrf"
    assert len(whole.trials) == 16


def test_a_killed_search_goes_on_to_the_same_trials(whole: Found, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    killed = subprocess.run(arguments, capture_output=True, text=True, env=environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    seen: list[int] = []

    again = run(path, 16, progress=seen.append)

    assert seen == [13, 14, 15]
    assert again == whole
    with opened_study(path, {"seed": 7}) as study:
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 16


def test_ctrl_c_ends_the_search_and_keeps_what_is_there(whole: Found, tmp_path: Path) -> None:
    def interrupted(values: Values) -> float:
        if len(scored) == 13:
            raise KeyboardInterrupt
        scored.append(values)
        return hill(values)

    scored: list[Values] = []
    stopped = run(tmp_path / "study.db", 16, interrupted)
    assert (stopped.stopped, stopped.trials) == (True, whole.trials[:13])
    assert run(tmp_path / "study.db", 15).trials == whole.trials[:15]

    scored = [{}] * 13
    with pytest.raises(KeyboardInterrupt):  # nothing is there to be reported
        run(tmp_path / "other.db", 16, interrupted)


def test_an_error_of_the_score_reaches_the_caller(whole: Found, tmp_path: Path) -> None:
    def failing(_values: Values) -> float:
        raise UsageError("no model")

    run(tmp_path / "study.db", 2)
    with pytest.raises(UsageError, match="no model"):
        run(tmp_path / "study.db", 3, failing)
    assert run(tmp_path / "study.db", 3).trials == whole.trials[:3]


def test_what_is_done_is_not_done_again(whole: Found, tmp_path: Path) -> None:
    first = run(tmp_path / "study.db", 3)
    assert first.trials == whole.trials[:3]

    def never(_values: Values) -> float:
        raise AssertionError

    assert run(tmp_path / "study.db", 2, never) == first


def test_seconds_are_a_limit(tmp_path: Path) -> None:
    assert len(run(tmp_path / "study.db", 50, seconds=0).trials) == 1


def test_another_seed_draws_others(whole: Found, tmp_path: Path) -> None:
    other = run(tmp_path / "study.db", 4, seed=8)
    assert other.trials[0] == whole.trials[0]
    assert other.trials[1:] != whole.trials[1:4]


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "study.db", 1, identity={"seed": 7, "set": "a"})
    with pytest.raises(UsageError, match="another set"):
        run(tmp_path / "study.db", 1, identity={"seed": 7, "set": "b"})


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0"])
def test_a_file_that_is_no_study_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(EvalDataError, match="not a study"):
        run(path, 1)
    assert path.read_bytes() == content


def test_two_processes_do_not_share_a_study(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with (
        opened_study(path, {}) as study,
        pytest.raises(UsageError, match="Another process"),
        opened_study(path, {}),
    ):
        pass
    assert study.study_name == NAME
