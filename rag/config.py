"""Every setting of the program, where its value came from, and nothing that acts on it.

A value is looked up in this order: command-line option, environment (prefix YOUJU_), the file
youju.toml, default. The file is the one that YOUJU_CONFIG names, or ./youju.toml. An unknown key
in the file or an unknown YOUJU_ variable is an error, so that a misspelt setting is never ignored.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rag.errors import ConfigError

PREFIX = "YOUJU_"
CONFIG_VARIABLE = "YOUJU_CONFIG"

_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]*@")

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """All settings. Construct with `load_settings`, which also reads the file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    home: Path = Field(
        default_factory=lambda: user_data_path("youju", appauthor=False),
        description="Folder of the database, the indexes and the converted models.",
    )
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the home folder.")
    database_timeout: Seconds = Field(
        30.0, description="Seconds to wait for another process's write to end."
    )
    database_pool: Annotated[int, Field(ge=2, le=1000)] = Field(
        10, description="Connections of a process to PostgreSQL, at most; SQLite has no such limit."
    )
    store: str = Field(
        "default", min_length=1, max_length=100, description="Store used where none is named."
    )

    embedder: Literal["openvino", "torch"] = Field(
        "openvino", description="Engine: openvino (CPU) or torch (sentence-transformers, GPU)."
    )
    embedder_model: str = Field(
        "",
        description="Model name or path for torch, e.g. BAAI/bge-m3; empty: the packaged "
        "all-MiniLM-L6-v2.",
    )
    embedder_device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N."
    )
    embedder_precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        "auto", description="Arithmetic of the model; auto: bf16 where the processor has it."
    )
    embedder_batch_tokens: Positive = Field(
        4096, le=1_048_576, description="Tokens (padding included) in one embedding batch."
    )
    embedder_query_prompt: str | None = Field(
        None, description="Text put before each query; unset: what the model's folder says."
    )
    embedder_passage_prompt: str | None = Field(
        None, description="Text put before each passage; unset: what the model's folder says."
    )

    index_device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Where vectors are searched; auto: GPU if faiss has one."
    )
    index_scratch_mib: Annotated[int, Field(ge=0, le=65_536)] = Field(
        256, description="Scratch memory of faiss on each GPU, MiB."
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="Threads for embedding and search; 0: all cores."
    )

    chunk_tokens: Annotated[int, Field(ge=16, le=8192)] = Field(
        220, description="Largest chunk, in tokens of the embedder."
    )
    chunk_overlap: Annotated[int, Field(ge=0, le=4096)] = Field(
        40, description="Tokens of whole sentences that neighbouring chunks share at most."
    )
    commit_chunks: Annotated[int, Field(ge=1, le=100_000)] = Field(
        512, description="Chunks embedded and committed together while ingesting."
    )
    max_file_mib: Annotated[float, Field(gt=0, le=4096)] = Field(
        100.0, description="Largest file accepted, MiB."
    )
    parse_timeout: Seconds = Field(120.0, description="Seconds one file may take to parse.")
    parse_memory_mib: Annotated[int, Field(ge=128, le=1_048_576)] = Field(
        2048, description="Memory the parser may take, MiB."
    )
    max_unpacked_mib: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        1024, description="Members of one archive or mail together, unpacked, MiB."
    )
    document_passwords: tuple[SecretStr, ...] = Field(
        (),
        description="Passwords tried on encrypted PDF, Office and ZIP files: a list in "
        "youju.toml; in the environment one password, or a JSON list.",
    )
    ocr: Literal["auto", "off"] = Field(
        "auto", description="Read scans and pictures; auto: where the extra `ocr` is installed."
    )
    ocr_timeout: Seconds = Field(1800.0, description="Seconds one file may take that needs OCR.")
    ocr_pages: Annotated[int, Field(ge=1, le=100_000)] = Field(
        200, description="Pages and pictures of one file that are read by OCR."
    )

    top_k: Annotated[int, Field(ge=1, le=100)] = Field(
        8, description="Passages handed to the answerer."
    )
    context_expansion: Annotated[int, Field(ge=0, le=4096)] = Field(
        0,
        description="Tokens of the section around each passage that the answerer reads, too, at "
        "most; 0: none.",
    )
    candidates: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="Passages each side of the hybrid search contributes."
    )
    system: Literal["hybrid", "dense", "bm25", "rrf"] = Field(
        "hybrid", description="How passages are found."
    )
    fusion_bm25_weight: Annotated[float, Field(ge=0, le=100)] = Field(
        0.4, description="hybrid: what a point of BM25 counts beside the vectors."
    )
    fusion_least_coverage: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="hybrid: what the vectors count at least, for a question that the embedder "
        "cannot read.",
    )
    fusion_rrf_k: Annotated[int, Field(ge=1, le=1000)] = Field(
        60, description="rrf: its constant; larger: the first ranks count less."
    )
    bm25_gram_weight: Annotated[float, Field(ge=0, le=10)] = Field(
        0.25,
        description="What Chinese character pairs count beside words in BM25; the refusal is "
        "calibrated at 0.25.",
    )
    reranker: Literal["none", "cross-encoder", "endpoint"] = Field(
        "none", description="Second look at the best passages."
    )
    reranker_model: str = Field(
        "", description="Cross-encoder name or path, e.g. BAAI/bge-reranker-v2-m3."
    )
    reranker_url: str = Field("", description="Base URL of a server with POST /rerank.")
    reranker_api_key: SecretStr = Field(SecretStr(""), description="Its key, if it wants one.")
    reranker_depth: Annotated[int, Field(ge=1, le=1000)] = Field(
        30, description="Passages the reranker reads."
    )

    generator: Literal["extractive", "openai", "chatglm3"] = Field(
        "extractive",
        description="Who writes the answer: extractive (no model), openai (an endpoint) or "
        "chatglm3 (in this process).",
    )
    generator_model: str = Field(
        "",
        description="openai: the model's name at the endpoint. chatglm3: a folder, or a name on "
        "the hub, e.g. THUDM/chatglm3-6b.",
    )
    generator_url: str = Field(
        "", description="Base URL of an OpenAI-compatible endpoint, ending in /v1."
    )
    generator_api_key: SecretStr = Field(SecretStr(""), description="Its key, if it wants one.")
    generator_timeout: Seconds = Field(120.0, description="Seconds to wait for an answer.")
    generator_max_tokens: Positive = Field(512, le=32_768, description="Longest answer, tokens.")
    generator_adapter: str = Field(
        "", description="chatglm3: folder of a LoRA or P-Tuning v2 adapter."
    )
    generator_device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="chatglm3: auto, cpu, cuda or cuda:N.",
    )
    generator_precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        "auto",
        description="chatglm3: arithmetic of the model; auto: as stored, but bf16 for f16 on a "
        "CPU.",
    )
    generator_download: bool = Field(
        False, description="chatglm3: fetch generator_model from the hub if it is not here."
    )
    generator_batch: Positive = Field(
        8, le=1024, description="chatglm3: most answers written at once."
    )
    generator_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(
        32, description="chatglm3: most questions that wait beside them; one more is refused."
    )
    prompt_tokens: Annotated[int, Field(ge=256, le=1_000_000)] = Field(
        6000, description="Room for passages, history and question, tokens."
    )
    prompt_file: str = Field("", description="File with your own prompt; empty: the built-in one.")
    condense: Literal["auto", "rules", "model"] = Field(
        "auto",
        description="Who makes follow-up questions stand alone; auto: the generator if there is "
        "one, else rules.",
    )
    refusal_threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Evidence below which a question is refused; unset: as calibrated."
    )
    max_question_chars: Positive = Field(4000, description="Longest question, characters.")

    host: str = Field(
        "127.0.0.1", description="Where `youju serve` listens; beyond this machine only with keys."
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        8000, description="Its port; 0 takes a free one."
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Processes that serve.")
    max_requests: Annotated[int, Field(ge=1, le=100_000)] = Field(
        64, description="Requests of a process at once; one more gets 429 straight away."
    )
    max_answers: Annotated[int, Field(ge=1, le=1000)] = Field(
        16, description="Answers of a process that are written at once; others wait."
    )
    max_body_kib: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        1024, description="Largest body of a request that uploads nothing, KiB."
    )
    request_timeout: Seconds = Field(
        30.0, description="Seconds in which a client must have sent more of its request."
    )
    shutdown_timeout: Seconds = Field(
        20.0, description="Seconds that running requests get when the server is stopped."
    )
    rate_limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="Requests a minute with one key, in each process; 0: any number."
    )
    project_quota_mib: Annotated[float, Field(ge=0, le=1e9)] = Field(
        0.0, description="Uploaded files of one project, MiB; 0: any number."
    )
    response_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        30, description="Days that answers nobody rated are kept; 0: for ever."
    )
    cors_origins: str = Field(
        "", description="Origins, separated by commas, whose pages may ask from a browser."
    )
    jobs_in_server: bool = Field(
        True,
        description="Let `youju serve` start a process that ingests uploaded files; else run "
        "`youju worker`.",
    )
    job_concurrency: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Uploaded files that a worker ingests at once."
    )
    job_history_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        7, description="Days that `youju jobs` remembers what is done; 0: not at all."
    )
    log_content: bool = Field(
        False, description="Put questions and the names of files into the server's log."
    )

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise ValueError("a path holds no NUL character")
        try:
            return value.expanduser().absolute()
        except RuntimeError:  # "~name" of a user that does not exist
            raise ValueError("the home folder that ~ stands for is not known") from None

    @field_validator("document_passwords", mode="before")
    @classmethod
    def _list_of_passwords(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value.startswith("["):
            return (value,)
        try:
            return tuple(json.loads(value))
        except (ValueError, TypeError):
            raise ValueError("neither one password nor a JSON list of them") from None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.generator == "openai" and not (self.generator_url and self.generator_model):
            raise ValueError("generator openai needs generator_url and generator_model")
        if self.condense == "model" and self.generator == "extractive":
            raise ValueError("condense model needs a generator other than extractive")
        if self.generator == "chatglm3" and not self.generator_model:
            raise ValueError("generator chatglm3 needs generator_model, a folder or a hub name")
        if self.reranker == "endpoint" and not self.reranker_url:
            raise ValueError("reranker endpoint needs reranker_url")
        if self.reranker == "cross-encoder" and not self.reranker_model:
            raise ValueError("reranker cross-encoder needs reranker_model")
        if self.embedder == "openvino" and self.embedder_model:
            raise ValueError("embedder_model is for embedder torch; openvino has its packaged one")
        if self.chunk_overlap >= self.chunk_tokens:
            raise ValueError("chunk_overlap must be smaller than chunk_tokens")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the merging to `load_settings`, which remembers where a value came from."""
        return (init_settings,)

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL."""
        from sqlalchemy.engine import URL  # it knows how to write a path that holds "?" or "%"

        path = str(self.home / "youju.db")
        return self.database_url or URL.create("sqlite", database=path).render_as_string()

    @property
    def models_folder(self) -> Path:
        """Where converted models are cached."""
        return self.home / "models"

    @property
    def blobs_folder(self) -> Path:
        """Where uploaded files are kept."""
        return self.home / "blobs"

    @property
    def locks_folder(self) -> Path:
        """Where processes keep each other from doing the same at once."""
        return self.home / "locks"

    @property
    def jobs_folder(self) -> Path:
        """Where running jobs keep what they have done so far."""
        return self.home / "jobs"

    @property
    def indexes_folder(self) -> Path:
        """Where the indexes keep their snapshots; safe to delete, they are rebuilt."""
        return self.home / "indexes"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A line of `youju config`. `variable` is the environment variable that sets it."""

    name: str
    value: int | float | str | None
    origin: str
    variable: str
    help: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and, for each name, where its value came from.

    Attributes:
        settings: The validated values.
        origins: Setting name -> "default", "YOUJU_X", the file's path, or "command line".
    """

    settings: Settings
    origins: Mapping[str, str]

    def rows(self) -> list[SettingRow]:
        """Return every setting in order of declaration; secrets are masked."""
        values = ((name, getattr(self.settings, name)) for name in Settings.model_fields)
        return [
            SettingRow(
                name=name,
                value=_shown(value),
                origin=self.origins[name],
                variable=PREFIX + name.upper(),
                help=Settings.model_fields[name].description or "",
            )
            for name, value in values
        ]


def load_settings(
    options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> LoadedSettings:
    """Merge options, environment, youju.toml and defaults.

    Args:
        options: Values from the command line; None values are left out.
        environ: The environment; the process's own if None.

    Raises:
        ConfigError: For an unknown key or variable, a value of the wrong kind or out of range,
            or a file that is missing or not TOML. The message names the key and its origin.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for layer, origin_of in (_from_file(environ), _from_environment(environ)):
        values.update(layer)
        origins.update({key: origin_of(key) for key in layer})
    given = {key: value for key, value in (options or {}).items() if value is not None}
    values.update(given)
    origins.update(dict.fromkeys(given, "command line"))
    try:
        return LoadedSettings(Settings(**values), origins)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins), do="See `youju config`.") from None


def _shown(value: object) -> int | float | str | None:
    """Return a setting as it may be shown: passwords inside URLs are masked, too."""
    if isinstance(value, str):
        return _PASSWORD.sub(r"\1***@", value)
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, int | float | None) else str(value)


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.upper().startswith(PREFIX) or name.upper() == CONFIG_VARIABLE:
            continue
        key = name[len(PREFIX) :].lower()
        if key not in Settings.model_fields:
            raise ConfigError(
                f"Unknown setting {name} in the environment.",
                do=_suggestion(key, lambda known: PREFIX + known.upper()),
            )
        if value != "":
            found[key] = value
    return found, lambda key: PREFIX + key.upper()


def _from_file(environ: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
    named = environ.get(CONFIG_VARIABLE, "")
    path = Path(named) if named else Path("youju.toml")
    try:
        if not named and not path.exists():
            return {}, str
        with path.open("rb") as handle:
            found = tomllib.load(handle)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", do="Mend the file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the settings file {path}: {error}.") from None
    for key in found:
        if key not in Settings.model_fields:
            raise ConfigError(f"Unknown setting {key!r} in {path}.", do=_suggestion(key))
    return found, lambda _key: str(path)


def _suggestion(key: str, written: Callable[[str], str] = str) -> str:
    """Name the setting that was probably meant, as it is written where it stands."""
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    meant = f"Did you mean {written(near[0])}? " if near else ""
    return f"{meant}docs/settings.md lists every setting."


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"][:1])
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return f"Settings do not fit together: {message}."
    if place not in origins:
        return f"Unknown setting {place!r}."
    shown = "" if place.endswith(("key", "passwords")) else f" = {_shown(first['input'])!r:.100}"
    return f"Setting {place}{shown} (from {origins[place]}) is not allowed: {message}."
