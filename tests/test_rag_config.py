"""Settings: precedence, origins, and one readable line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from rag.config import Settings, load_settings
from rag.errors import ConfigError
from rag.fuse import DEFAULT_WEIGHTS, FusionWeights
from rag.index.bm25 import GRAM_WEIGHT


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing() -> None:
    loaded = load_settings(environ={})

    assert loaded.settings.embedder == "openvino"
    assert loaded.settings.generator == "extractive"
    assert set(loaded.origins) == set(Settings.model_fields)
    assert set(loaded.origins.values()) == {"default"}


def test_option_beats_environment_beats_file_beats_default() -> None:
    Path("youju.toml").write_text("top_k = 3\ncandidates = 30\nthreads = 1\n")

    loaded = load_settings({"top_k": 5, "store": None}, {"YOUJU_TOP_K": "4", "YOUJU_THREADS": "2"})

    settings = loaded.settings
    assert (settings.top_k, settings.threads, settings.candidates) == (5, 2, 30)
    assert settings.store == "default"
    assert loaded.origins["top_k"] == "command line"
    assert loaded.origins["threads"] == "YOUJU_THREADS"
    assert loaded.origins["candidates"] == "youju.toml"
    assert loaded.origins["store"] == "default"


def test_the_file_can_be_named(tmp_path: Path) -> None:
    named = tmp_path / "设置.toml"
    named.write_text('store = "手册"\n', encoding="utf-8")
    Path("youju.toml").write_text('store = "not this one"\n')

    loaded = load_settings(environ={"YOUJU_CONFIG": str(named)})

    assert loaded.settings.store == "手册"
    assert loaded.origins["store"] == str(named)


def test_the_defaults_of_the_weights_are_those_of_the_code() -> None:
    settings = load_settings(environ={}).settings
    assert DEFAULT_WEIGHTS == FusionWeights(
        settings.fusion_bm25_weight, settings.fusion_least_coverage, settings.fusion_rrf_k
    )
    assert settings.bm25_gram_weight == GRAM_WEIGHT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("fusion_bm25_weight", value) for value in (-0.1, 101, float("nan"))),
        *(("fusion_least_coverage", value) for value in (-0.1, 1.1)),
        *(("fusion_rrf_k", value) for value in (0, 1001, 1.5)),
        *(("bm25_gram_weight", value) for value in (-0.1, 11, float("inf"))),
    ],
)
def test_weights_out_of_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings({name: value}, environ={})


def test_an_empty_variable_counts_as_unset() -> None:
    loaded = load_settings(environ={"YOUJU_TOP_K": ""})

    assert loaded.settings.top_k == 8
    assert loaded.origins["top_k"] == "default"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"YOUJU_TOPK": "3"}, ["YOUJU_TOPK", "YOUJU_TOP_K"]),
        ({"YOUJU_": "3"}, ["YOUJU_"]),
        ({"YOUJU_TOP_K": "0"}, ["top_k", "'0'", "YOUJU_TOP_K", "greater than or equal to 1"]),
        ({"YOUJU_TOP_K": "many"}, ["top_k", "'many'", "integer"]),
        ({"YOUJU_MAX_FILE_MIB": "nan"}, ["max_file_mib"]),
        ({"YOUJU_PARSE_TIMEOUT": "inf"}, ["parse_timeout"]),
        ({"YOUJU_REFUSAL_THRESHOLD": "nan"}, ["refusal_threshold"]),
        ({"YOUJU_SYSTEM": "magic"}, ["system", "'hybrid'", "'bm25'"]),
        ({"YOUJU_HOME": "~no-such-user-here/x"}, ["home", "~"]),
        ({"YOUJU_CHUNK_OVERLAP": "220"}, ["chunk_overlap must be smaller than chunk_tokens"]),
        ({"YOUJU_GENERATOR": "openai"}, ["generator_url and generator_model"]),
        ({"YOUJU_RERANKER": "endpoint"}, ["reranker_url"]),
        ({"YOUJU_RERANKER": "cross-encoder"}, ["reranker_model"]),
        ({"YOUJU_EMBEDDER_MODEL": "x/y"}, ["embedder_model", "torch"]),
        ({"YOUJU_CONFIG": "nowhere.toml"}, ["nowhere.toml"]),
        ({"YOUJU_CONFIG": "."}, ["settings file ."]),
    ],
)
def test_wrong_environment_is_one_line_that_names_it(
    environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ=environ)

    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"topk = 3\n", ["'topk'", "youju.toml"]),
        (b"top_k = \n", ["youju.toml", "TOML"]),
        (b"store = '\xff'\n", ["youju.toml"]),
        (b"top_k = 'x'\n", ["top_k", "youju.toml"]),
        (b"[top_k]\nx = 1\n", ["top_k", "youju.toml"]),
        (b'home = "a\\u0000b"\n', ["home", "NUL"]),
        (b"store = ''\n", ["store", "at least 1 character"]),
    ],
)
def test_wrong_file_is_one_line_that_names_it(content: bytes, words: list[str]) -> None:
    Path("youju.toml").write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_settings(environ={})

    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"top_k = 101 \(from command line\)"):
        load_settings({"top_k": 101}, {})
    with pytest.raises(ConfigError, match="no_such_setting"):
        load_settings({"no_such_setting": 1}, {})


def test_a_message_quotes_at_most_a_piece_of_a_long_value() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"YOUJU_TOP_K": "1" * 5000})

    assert len(str(caught.value)) < 400


def test_a_key_is_shown_nowhere() -> None:
    environ = {"YOUJU_GENERATOR_API_KEY": "hunter2-secret"}
    loaded = load_settings(environ=environ)

    assert "hunter2" not in repr(loaded) + str(loaded.settings.model_dump())
    assert loaded.settings.generator_api_key.get_secret_value() == "hunter2-secret"
    with pytest.raises(ConfigError) as caught:
        load_settings({"generator_api_key": ["hunter2-secret"]}, {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "有 据", "what?a=b", "100%", "a%20b", "a#b", "a@b:c"])
def test_the_database_lies_in_the_home_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    settings = load_settings({"home": tmp_path / name}, {}).settings

    assert make_url(settings.url).database == str(tmp_path / name / "youju.db")


def test_paths_are_absolute_and_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))

    assert load_settings({"home": "x"}, {}).settings.home == tmp_path / "x"
    assert load_settings({"home": "~/x"}, {}).settings.home == tmp_path / "me" / "x"


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
