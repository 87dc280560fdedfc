"""When ChatGLM3's weights are taken and given back: dropped, closed, broken down, at exit."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from glm_serving import scripted, write_chatty

from rag.chat_models import ChatGLM3
from rag.errors import EngineClosed
from rag.glm.load import LoadedGlm


class Fragile:
    """A scripted model that raises what nobody foresaw as long as it is broken."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.dtype, self.device = model.dtype, model.device
        self.broken = True

    def __call__(self, **inputs: Any) -> Any:
        if self.broken:
            raise KeyError("foreseen by no one")
        return self.model(**inputs)


def fragile(folder: Path) -> tuple[LoadedGlm, Fragile]:
    loaded, model = scripted(folder, "\nok")
    broken: Any = Fragile(model)
    return replace(loaded, model=broken), broken


def is_freed(thing: weakref.ref[Any]) -> bool:
    """Whether it is gone within 20 s: the engine's thread may have to end first."""
    until = time.monotonic() + 20
    while thing() is not None and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    return thing() is None


def test_a_model_that_is_dropped_frees_its_weights(tmp_path: Path) -> None:
    model = ChatGLM3(model=str(write_chatty(tmp_path)), max_tokens=3, seed=1)
    assert model.invoke("hi").content is not None
    stream: Any = model.stream("hi")
    next(stream)
    served = model.load()
    weights, engine = weakref.ref(served.loaded.model), weakref.ref(served.engine)
    del model, served
    gc.collect()
    assert next(stream) is not None  # who still reads keeps it
    assert weights() is not None
    del stream
    assert is_freed(weights)
    assert is_freed(engine)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("close", [False, True])
def test_after_a_breakdown_the_next_call_is_answered(tmp_path: Path, close: bool) -> None:
    loaded, weak = fragile(tmp_path)
    model = ChatGLM3.of(loaded)
    broken = model.load()
    for _ in range(2):
        with pytest.raises(EngineClosed, match="broke down: KeyError"):
            model.invoke("hi")
    if close:
        model.close()
    weak.broken = False
    assert model.invoke("hi").content == "ok"
    assert model.load() is model.load() is not broken
    model.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_breakdown_reads_no_weights_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ChatGLM3(model=str(write_chatty(tmp_path)), max_tokens=3)
    served = model.load()

    def broken() -> None:
        raise KeyError("foreseen by no one")

    with monkeypatch.context() as patch:
        patch.setattr(served.engine, "_step", broken)
        with pytest.raises(EngineClosed, match="broke down: KeyError"):
            model.invoke("hi")
    assert model.invoke("hi").content is not None
    assert model.load() is not served
    assert model.load().loaded is served.loaded
    model.close()
    assert model.invoke("hi").content is not None
    assert model.load().loaded is not served.loaded
    model.close()


def test_a_closed_model_over_a_loaded_one_answers_as_long_as_that_is_there(tmp_path: Path) -> None:
    loaded = scripted(tmp_path, "\nok")[0]
    model = ChatGLM3.of(loaded)
    assert model.invoke("hi").content == "ok"
    model.close()
    assert model.invoke("hi").content == "ok"
    model.close()
    weights = weakref.ref(loaded.model)
    del loaded
    assert is_freed(weights)
    with pytest.raises(EngineClosed, match=r"tiny/scripted was closed.*ChatGLM3\.of"):
        model.invoke("hi")


LEAVING = """
import atexit, sys, threading
from pathlib import Path

def left():
    print([thread.name for thread in threading.enumerate() if thread.name == "glm"])

atexit.register(left)  # runs after what is registered later
sys.path.insert(0, sys.argv[2])
from rag.chat_models import ChatGLM3

model = ChatGLM3(model=sys.argv[1], max_tokens=900, seed=1)

def read():
    for part in model.stream("hi"):
        begun.set()

begun = threading.Event()
threading.Thread(target=read, daemon=True).start()
assert begun.wait(60)
"""


@pytest.mark.slow
def test_python_ends_while_a_request_runs(tmp_path: Path) -> None:
    folder = write_chatty(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, str(folder), str(Path(__file__).parent)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert "terminate" not in done.stderr


def test_an_engine_that_ended_is_not_kept_for_the_exit(tmp_path: Path) -> None:
    loaded, _ = scripted(tmp_path, "\nok")
    model = ChatGLM3.of(loaded)
    assert model.invoke("hi").content == "ok"
    engine = weakref.ref(model.load().engine)
    model.close()
    assert is_freed(engine)
