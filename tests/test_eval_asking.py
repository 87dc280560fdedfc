"""Asking many questions: faults are counted, and a run that broke off goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.asking import (
    MAX_FAULTS,
    Case,
    Kept,
    Outcome,
    ask_all,
    evaluation_key,
    kept_answers,
)
from rag.config import Settings, load_settings
from rag.errors import (
    CheckpointError,
    EvalDataError,
    ModelError,
    QueryError,
    StorageBusy,
    StorageError,
)
from rag.schema import Answer, Citation

PROJECT = Path(__file__).resolve().parents[1]
WHOLE = Answer(
    "Zwölf 十二 [1]", False, (Citation("f", 3, 1, 2, "x", 0.5, "id"),), ("no",), 0.7,
    {"retrieve": 0.1}, {"input": 3}, 2, "length",
)  # fmt: skip


@pytest.fixture
def settings() -> Settings:
    return load_settings().settings


def cases(count: int, asked: list[str]) -> list[Case]:
    def asking(id_: str) -> Callable[[], Answer]:
        def ask() -> Answer:
            asked.append(id_)
            return WHOLE

        return ask

    return [Case(f"q{number}", asking(f"q{number}")) for number in range(count)]


def raising(id_: str, error: Exception) -> Case:
    def ask() -> Answer:
        raise error

    return Case(id_, ask)


def test_a_fault_of_one_question_is_an_outcome_and_the_others_go_on() -> None:
    done: list[int] = []
    mixed = [
        *cases(1, []),
        raising("long", QueryError("Too long.", do="Shorten it.")),
        raising("down", ModelError("No answer.")),
        Case("refused", lambda: Answer("No.", refused=True)),
    ]
    first, long, down, refused = ask_all(mixed, progress=done.append)
    assert done == [1, 2, 3, 4]
    assert first.given == WHOLE
    assert first.seconds >= 0
    assert (long.answer, long.fault, long.given) == (None, "Too long. Shorten it.", None)
    assert down.fault == "No answer."
    assert refused.given is None
    assert refused.answer is not None
    assert refused.fault == ""


def test_a_model_that_is_not_there_or_stays_down_ends_it() -> None:
    with pytest.raises(CheckpointError):
        ask_all([raising("q", CheckpointError("damaged"))])
    down = [raising(f"down{number}", ModelError("down")) for number in range(MAX_FAULTS)]
    assert len(ask_all(down[1:])) == MAX_FAULTS - 1
    assert len(ask_all([*down[1:], *cases(1, []), *down[:1]])) == MAX_FAULTS + 1
    with pytest.raises(ModelError, match="down"):
        ask_all(down)
    with pytest.raises(StorageError):
        ask_all([raising("q", StorageError("full"))])
    with pytest.raises(ValueError, match="repeats"):
        ask_all([*cases(1, []), *cases(1, [])])


def test_what_was_answered_is_not_asked_again_and_is_the_same(settings: Settings) -> None:
    asked: list[str] = []
    broken = [*cases(2, asked), raising("bad", QueryError("odd")), raising("x", StorageError("!"))]
    with pytest.raises(StorageError), kept_answers(settings, "k") as kept:
        ask_all(broken, kept)
    with kept_answers(settings, "other") as kept:
        ask_all(cases(1, asked), kept)
    assert asked == ["q0", "q1", "q0"]
    asked.clear()
    with kept_answers(settings, "k") as kept:
        outcomes = ask_all([*cases(3, asked), *[Case("bad", lambda: WHOLE)]], kept)
        assert (settings.home / "eval" / "answers-k").is_dir()
    assert asked == ["q2"]
    assert [outcome.answer for outcome in outcomes] == [WHOLE] * 4
    assert list((settings.home / "eval").iterdir()) == []
    assert list(settings.locks_folder.iterdir()) == []


KILLED = """
import os, sys
from eval.asking import Case, ask_all, kept_answers
from rag.config import load_settings
from rag.schema import Answer

def ask(number):
    if number == 3:
        os.kill(os.getpid(), 9)
    return Answer(f"a{number}", False)

with kept_answers(load_settings().settings, "k") as kept:
    ask_all([Case(f"q{n}", lambda n=n: ask(n)) for n in range(9)], kept)
"""


def test_a_killed_run_goes_on(settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])},
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr
    asked: list[str] = []
    with kept_answers(settings, "k") as kept:
        outcomes = ask_all(cases(9, asked), kept)
    assert asked == [f"q{number}" for number in range(3, 9)]
    assert [o.answer.text for o in outcomes[:3] if o.answer] == ["a0", "a1", "a2"]


@pytest.mark.parametrize(
    "torn",
    [b'{"id": "q1", "ro', b'{"id": "q1", "row": {}}', b"\xff\n", b"[]\n", b"{}\n", b"\0" * 9],
)
def test_a_torn_end_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(b'{"id": "q0", "row": {"n": 1}}\n' + torn)
    with file.open("a+b") as opened:
        kept = Kept(opened)
        assert kept.get("q0") == {"n": 1}
        assert kept.get("q1") is None
        kept.put("q2", {"n": 2})
    lines = file.read_bytes().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["q0", "q2"]


def test_two_processes_do_not_do_the_same(settings: Settings) -> None:
    with kept_answers(settings, "k"):
        with pytest.raises(StorageBusy, match="same evaluation"), kept_answers(settings, "k"):
            pass
        with kept_answers(settings, "other"):
            pass
        assert (settings.home / "eval" / "answers-k").is_dir()


def test_a_home_that_cannot_be_used_is_told(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / "eval").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be used"), kept_answers(settings, "k"):
        pass


def test_the_key_follows_set_settings_and_models(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    (tmp_path / "b.jsonl").write_text("y")
    files = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    key = evaluation_key(settings, files, "embedder")
    assert key == evaluation_key(settings, reversed(files), "embedder")
    moved = settings.model_copy(update={"home": tmp_path / "other", "port": 1})
    assert key == evaluation_key(moved, files, "embedder")
    others = [
        evaluation_key(settings.model_copy(update={"top_k": 3}), files, "embedder"),
        evaluation_key(settings, files[1:], "embedder"),
        evaluation_key(settings, files, "other"),
    ]
    (tmp_path / "a.jsonl").write_text("z")
    others.append(evaluation_key(settings, files, "embedder"))
    assert len({key, *others}) == 5
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "w.bin").write_text("1")
    tuned = settings.model_copy(update={"generator_adapter": str(tmp_path / "adapter")})
    first = evaluation_key(tuned, files)
    (tmp_path / "adapter" / "w.bin").write_text("22")
    assert evaluation_key(tuned, files) != first
    (tmp_path / "prompt").write_text("a")
    told = settings.model_copy(update={"prompt_file": str(tmp_path / "prompt")})
    first = evaluation_key(told, files)
    (tmp_path / "prompt").write_text("b")
    assert evaluation_key(told, files) != first
    with pytest.raises(EvalDataError, match="Cannot read"):
        evaluation_key(settings, [tmp_path / "none"])


def test_nothing_is_kept_without_a_file() -> None:
    kept = Kept()
    kept.put("a", {"n": 1})
    assert kept.get("a") == {"n": 1}
    assert ask_all([], kept) == []
    assert Outcome("a", None, "why").given is None
