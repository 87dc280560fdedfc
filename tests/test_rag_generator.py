"""generator = "chatglm3": from settings to a cited answer, a refusal, or one line that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command import Run, assert_one_line
from glm_models import write_official
from glm_serving import CHATTY, scripted, write_chatty
from glm_tokenizers import write_model
from test_rag_glm_adapters import write_official_lora

from rag.build import build_rag, make_chatglm3
from rag.chain import Generating
from rag.chat_models import ChatGLM3
from rag.config import Settings
from rag.errors import ConfigError, ModelError
from rag.glm.chat import Turn, prompt_ids
from rag.glm.quantize import quantize
from rag.prompt import load_template
from rag.refusal import refusal_text
from rag.schema import Answer

QUESTION = "Who is supposed to use the yellow locks?"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose context holds a prompt, every byte of which is a token."""
    folder = tmp_path_factory.mktemp("wide")
    write_model(folder)
    return write_official(folder, replace(CHATTY, context=16_384))


@pytest.fixture
def chatglm3(monkeypatch: pytest.MonkeyPatch, wide: Path, samples: Path) -> None:
    monkeypatch.setenv("YOUJU_GENERATOR", "chatglm3")
    monkeypatch.setenv("YOUJU_GENERATOR_MODEL", str(wide))
    monkeypatch.setenv("YOUJU_GENERATOR_MAX_TOKENS", "40")


@pytest.mark.usefixtures("chatglm3")
def test_ask_with_random_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUJU_PROMPT_TOKENS", "4000")
    done = run("ask", QUESTION, "--json")
    assert done.status == 0, done.err
    assert done.json["answer"]
    assert not done.json["refused"]
    assert done.json["citations"] == []  # nonsense is supported by nothing
    assert done.json["unsupported"]
    assert done.json["dropped"] > 0
    said = run("ask", QUESTION)
    assert "Not supported by the documents: " in said.out
    assert "for want of room: " in said.out
    assert run("ask", QUESTION, "--json").json["answer"] == done.json["answer"]


@pytest.mark.slow
@pytest.mark.usefixtures("chatglm3")
def test_a_cut_answer_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUJU_PROMPT_TOKENS", "4000")
    assert run("ask", QUESTION, "--json").json["finish"] == "length"
    assert "was cut off at its limit; raise generator_max_tokens" in run("ask", QUESTION).out
    monkeypatch.setenv("YOUJU_GENERATOR", "extractive")
    assert run("ask", QUESTION, "--json").json["finish"] == "stop"
    assert "cut off" not in run("ask", QUESTION).out


@pytest.mark.usefixtures("chatglm3")
@pytest.mark.parametrize(
    ("most", "remedy"), [("15984", "lower generator_max_tokens"), ("40", "raise prompt_tokens")]
)
def test_too_little_room_names_the_setting_that_is_the_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch, most: str, remedy: str
) -> None:
    monkeypatch.setenv("YOUJU_PROMPT_TOKENS", "500")
    monkeypatch.setenv("YOUJU_GENERATOR_MAX_TOKENS", most)
    assert_one_line(run("ask", QUESTION), 2, remedy)


@pytest.mark.usefixtures("chatglm3")
def test_no_evidence_loads_no_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: ChatGLM3) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(ChatGLM3, "load", load)
    assert run("ask", "红烧肉怎么做才不腻？", "--json").json["refused"]


# -- what it says ----------------------------------------------------------------------------------

Said = Callable[..., tuple[Answer, str]]


@pytest.fixture
def said(samples_home: Path, tmp_path: Path) -> Said:
    """Ask a question of the samples; the model answers with the given text."""

    def ask(question: str, text: str, prompt_file: str = "") -> tuple[Answer, str]:
        loaded, seen = scripted(tmp_path, "\n" + text)
        wide_ = replace(loaded, shape=replace(CHATTY, context=30_000))
        rag = build_rag(Settings(home=samples_home, store="samples"))
        tokenizer = loaded.tokenizer
        assert tokenizer is not None
        model = ChatGLM3.of(wide_)
        rag.answerer = Generating(
            model,
            judge=rag.answerer,
            template=load_template(prompt_file),
            count_tokens=lambda words: len(tokenizer.encode(words)),
            budget=20_000,
            analyzer=rag.analyzer,
        )
        answer = rag.open("samples").ask(question)
        model.close()
        return answer, "".join(map(tokenizer.decode, seen.asked))

    return ask


def test_citations_are_verified(said: Said) -> None:
    text = "Contractors use the yellow locks [1]. They were made on the moon [1]."
    answer, prompt = said(QUESTION, text)
    (citation,) = answer.citations
    assert citation.file == "safety/lockout-tagout-en.txt"
    assert answer.unsupported == ("They were made on the moon.",)
    assert answer.tokens["input"] > 1000
    assert answer.dropped == 0
    assert prompt.startswith("[gMASK]sop<|system|>")
    assert QUESTION in prompt
    assert "English" in prompt


def test_a_refusal_is_recognised(said: Said) -> None:
    answer, prompt = said("C3 控制器显示 E05 是什么故障？", refusal_text("zh"))
    assert answer.refused
    assert answer.text == refusal_text("zh")
    assert "简体中文" in prompt


def test_the_prompt_comes_from_a_file(said: Said, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("[system]\nBe a pirate.\n[user]\n$passages\nAsked: $question\n", "utf-8")
    _, prompt = said(QUESTION, "Contractors [1].", str(file))
    assert "Be a pirate." in prompt
    assert "Asked: " + QUESTION in prompt


# -- the budget ------------------------------------------------------------------------------------


def test_the_prompt_is_counted_by_the_models_own_tokenizer(wide: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, generator="chatglm3", generator_model=str(wide), prompt_tokens=9000
    )
    model, count_tokens, budget = make_chatglm3(settings)
    tokenizer = model.load().tokenizer
    assert count_tokens("你好 hello") == len(tokenizer.encode("你好 hello"))
    assert budget == 9000
    settings = settings.model_copy(update={"prompt_tokens": 50_000})
    assert make_chatglm3(settings)[2] == 16_384 - 512
    # What counts as MESSAGE_TOKENS is enough for what the format adds.
    ids = prompt_ids(tokenizer, [Turn("system", "a"), Turn("user", "b")])
    assert len(ids) <= count_tokens("a") + count_tokens("b") + 2 * 8
    model.close()


# -- what is wrong ---------------------------------------------------------------------------------


def test_no_room_for_a_prompt(tmp_path: Path) -> None:
    folder = write_chatty(tmp_path / "model")
    settings = Settings(
        home=tmp_path, generator="chatglm3", generator_model=str(folder), generator_max_tokens=1024
    )
    with pytest.raises(ConfigError, match=r"generator_max_tokens = 1,024.*1,024"):
        make_chatglm3(settings)


@pytest.mark.usefixtures("chatglm3")
def test_a_model_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUJU_GENERATOR_MODEL", "/nowhere/chatglm3")
    assert_one_line(run("ask", QUESTION), 1, "/nowhere/chatglm3")
    monkeypatch.setenv("YOUJU_GENERATOR_MODEL", "")
    assert_one_line(run("ask", QUESTION), 2, "chatglm3 needs generator_model")


@pytest.mark.usefixtures("chatglm3")
def test_doctor_names_the_model(run: Run, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[int, str, str]:
        done = run("doctor", "--json")
        (row,) = [f for f in done.json["findings"] if f["what"].startswith("generator")]
        return done.status, row["status"], row["detail"]

    status, state, detail = found()
    assert (status, state) == (0, "ok")
    assert "tiny/chatglm3" in detail
    assert "context 16,384" in detail
    assert str(wide) in detail
    monkeypatch.setenv("YOUJU_GENERATOR_ADAPTER", str(wide))
    assert "holds no adapter" in found()[2]
    monkeypatch.setenv("YOUJU_GENERATOR_ADAPTER", "")
    monkeypatch.setenv("YOUJU_GENERATOR_DEVICE", "cuda:99")
    assert "cuda:99" in found()[2]
    monkeypatch.setenv("YOUJU_GENERATOR_MODEL", "/nowhere")
    assert found()[:2] == (1, "missing")


@pytest.mark.usefixtures("chatglm3")
def test_doctor_says_which_file_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_chatty(tmp_path / "model")
    monkeypatch.setenv("YOUJU_GENERATOR_MODEL", str(folder))
    (folder / "tokenizer.model").unlink()
    assert "no tokenizer.model" in run("doctor").out
    write_model(folder)
    (folder / "model.safetensors").unlink()
    assert run("doctor").status == 1


@pytest.mark.usefixtures("chatglm3")
def test_doctor_finds_what_ask_would_stop_at(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wide: Path
) -> None:
    for name, trained_on in (("lora", "tiny/chatglm3"), ("foreign", "THUDM/chatglm2-6b")):
        write_official_lora(tmp_path / name, CHATTY, base_model_name_or_path=trained_on)
    small = tmp_path / "small"
    quantize(wide, small, 8)
    for model, adapter, says in (
        (wide, "lora", ""),
        (small, "lora", "is quantised: a LoRA adapter"),
        (wide, "foreign", "was trained on 'THUDM/chatglm2-6b'"),
        (wide, "absent", "no adapter folder"),
    ):
        monkeypatch.setenv("YOUJU_GENERATOR_MODEL", str(model))
        monkeypatch.setenv("YOUJU_GENERATOR_ADAPTER", str(tmp_path / adapter))
        done = run("doctor", "--json")
        (row,) = [f for f in done.json["findings"] if f["what"].startswith("generator")]
        assert (done.status, row["status"]) == ((1, "missing") if says else (0, "ok")), row
        assert says in row["detail"]


def test_a_device_or_dtype_that_is_none(wide: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown dtype 'int3'"):
        ChatGLM3(model=str(wide), dtype="int3").invoke("x")
    with pytest.raises(ConfigError, match="cuda:99"):
        ChatGLM3(model=str(wide), device="cuda:99").invoke("x")
    with pytest.raises(ModelError, match="generator_download"):
        ChatGLM3(model="nobody/nothing").invoke("x")


def test_float16_is_not_computed_on_a_cpu(tmp_path: Path) -> None:
    write_model(tmp_path)
    folder = write_official(tmp_path, replace(CHATTY, dtype="float16"))
    model = ChatGLM3(model=str(folder), dtype="auto", device="cpu", max_tokens=2)
    assert str(model.load().engine._model.dtype) == "torch.bfloat16"
    assert model.invoke("hi")
    model.close()
