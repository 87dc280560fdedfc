"""The container files hold our rules, and what they would run does run here.

No Docker engine is needed: the files are read, and their commands are run on this machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from served import Served

from api.health import ready

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ["docker-compose.yml", "docker-compose.postgres.yml"]
SECRET = re.compile(r"key|secret|password|token", re.IGNORECASE)


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, in order."""
    parser = DockerfileParser(path=str(ROOT), cache_content=True)
    found = [(entry["instruction"], entry["value"]) for entry in parser.structure]
    return [(name, value) for name, value in found if name != "COMMENT"]


def values(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [value for found, value in instructions if found == name]


def exec_form(value: str) -> list[str]:
    found = json.loads(value)
    assert isinstance(found, list)
    return found


def compose(name: str) -> dict[str, Any]:
    """A Compose file with variables as they are when none is set that has a default."""
    text = (ROOT / name).read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return loaded


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [name for name in done.stdout.split("\0") if name]


def kept_from_docker(path: str) -> bool:
    """Whether .dockerignore leaves a path out: the last pattern that fits it or a folder of it."""
    parts = path.split("/")
    prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    out = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        wanted = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?")
        pattern = re.compile(wanted.replace(r"\*", "[^/]*"))
        if any(pattern.fullmatch(prefix) for prefix in prefixes):
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_are_valid(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_services_are_fenced_in(name: str) -> None:
    for title, service in compose(name)["services"].items():
        if "image" not in service:
            continue  # adds to a service of the other file
        assert service["read_only"] is True, title
        assert service["cap_drop"] == ["ALL"], title
        assert service["security_opt"] == ["no-new-privileges:true"], title
        assert service["restart"] == "unless-stopped", title
        assert service["deploy"]["resources"]["limits"].keys() == {"memory", "pids"}, title
        assert ":" in service["image"], title
        assert not service["image"].endswith(":latest"), title
        assert "privileged" not in service, title
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), title
        own = title.startswith("api")
        assert own or "healthcheck" in service, title  # ours is in the image
        if own:  # the PDF library is loaded from there; Docker's default is noexec
            assert service["tmpfs"][0].startswith("/tmp:exec,")


def test_the_default_services_need_no_variable() -> None:
    text = (ROOT / COMPOSE[0]).read_text("utf-8")
    for used in re.findall(r"\$\{([^}]*)\}", text):
        assert re.fullmatch(r"\w+:-.+", used), used
    assert compose(COMPOSE[0])["services"]["api"].get("profiles") is None
    assert compose(COMPOSE[0])["services"]["api-gpu"]["profiles"] == ["gpu"]


def test_secrets_have_no_default() -> None:
    for name in COMPOSE:
        for used in re.findall(r"\$\{([^}]*)\}", (ROOT / name).read_text("utf-8")):
            if SECRET.search(used.partition(":")[0]):
                assert re.fullmatch(r"\w+:\?.+", used), used
    database = compose(COMPOSE[1])["services"]["postgres"]["environment"]
    assert database["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_the_servers_wait_for_the_database() -> None:
    files = [compose(name)["services"] for name in COMPOSE]
    assert files[1].keys() - {"postgres"} == files[0].keys()
    for title in files[0]:
        added = files[1][title]
        assert added["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        assert added["environment"].keys() == {"YOUJU_DATABASE_URL"}
        assert added["environment"]["YOUJU_DATABASE_URL"].startswith("postgresql+pg8000://youju:$")


def test_compose_stops_later_than_the_server() -> None:
    from rag.config import Settings

    for service in compose(COMPOSE[0])["services"].values():
        grace = int(service["stop_grace_period"].removesuffix("s"))
        assert grace > Settings.model_fields["shutdown_timeout"].default + 10


def test_every_stage_starts_from_a_pinned_image(instructions: list[tuple[str, str]]) -> None:
    stages: set[str] = set()
    for value in values(instructions, "FROM"):
        image, _as, stage = value.split()
        if image.replace("${VARIANT}", "cpu") not in stages:
            assert re.fullmatch(r"python:3\.\d+-slim-\w+", image), image
        stages.add(stage)
    variants = {"cpu", "gpu"}
    assert {f"python-{variant}" for variant in variants} <= stages
    built = {service["build"]["args"]["VARIANT"] for service in _services()}
    assert built == variants


def _services() -> list[dict[str, Any]]:
    return list(compose(COMPOSE[0])["services"].values())


def test_it_runs_as_a_fixed_user_that_is_not_root(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    (user,) = values(instructions, "USER")
    uid, gid = user.split(":")
    assert int(uid) > 1000
    assert int(gid) > 1000
    made = " ".join(values(instructions, "RUN"))
    assert f"--uid {uid}" in made
    assert f"--gid {gid}" in made
    after = names[names.index("USER") :]
    assert not {"RUN", "COPY", "ADD", "FROM"} & set(after)


def test_the_instructions_follow_our_rules(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    assert "ADD" not in names
    assert values(instructions, "STOPSIGNAL") == ["SIGTERM"]
    assert exec_form(values(instructions, "VOLUME")[0]) == ["/data"]
    assert exec_form(values(instructions, "ENTRYPOINT")[0]) == ["youju"]
    assert exec_form(values(instructions, "CMD")[0]) == ["serve", "--host", "0.0.0.0"]
    for value in values(instructions, "ENV") + values(instructions, "ARG"):
        assert not SECRET.search(value), value
    environment = " ".join(values(instructions, "ENV"))
    assert "YOUJU_HOME=/data" in environment
    for label in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{label}=" in values(instructions, "LABEL")[0]


def test_packages_are_a_layer_below_the_sources(instructions: list[tuple[str, str]]) -> None:
    lock = sources = packages = -1
    for number, (name, value) in enumerate(instructions):
        if name == "COPY" and "requirements.lock" in value:
            lock = number
        elif name == "COPY" and value.split()[0] == "rag":
            sources = number
        elif name == "RUN" and "--constraint requirements.lock" in value and packages < 0:
            packages = number
            assert "--mount=type=cache,target=/root/.cache/pip" in value
            assert "--extra-index-url https://download.pytorch.org/whl/cpu" in value
    assert 0 < lock < packages < sources


def test_what_is_copied_is_in_git_and_reaches_the_build(
    instructions: list[tuple[str, str]],
) -> None:
    copied = [
        path
        for value in values(instructions, "COPY")
        if not value.startswith("--from")
        for path in value.split()[:-1]
    ]
    files = tracked()
    sent = [name for name in files if not kept_from_docker(name)]
    for path in copied:
        below = [name for name in files if name == path or name.startswith(path + "/")]
        assert below, path
        assert set(below) <= set(sent), path
    tops = {name.split("/")[0] for name in sent}
    assert tops == {path.split("/")[0] for path in copied} | {".ci"}
    for kept_out in (
        ".git/config", ".venv/bin/python", "shared/DESIGN.md", "tests/conftest.py", ".env",
        "youju.env", "samples/demo.py", "rag/__pycache__/x.pyc", "docker-compose.yml",
    ):  # fmt: skip
        assert kept_from_docker(kept_out), kept_out


def test_the_wheel_finds_all_its_parts_in_the_build(
    instructions: list[tuple[str, str]],
) -> None:
    """What hatchling reads is copied: the packages, the readme and the licence."""
    import tomllib

    described = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = described["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    project = described["project"]
    needed = {*wheel, project["readme"], *project["license-files"]}
    copied = {path for value in values(instructions, "COPY") for path in value.split()[:-1]}
    assert needed <= copied


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_an_image_has_one_faiss_and_no_tools(variant: str) -> None:
    wanted = script(".ci/image_requirements.py").requirements(variant)
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    assert {name for name in names if name.startswith("faiss")} == {
        {"cpu": "faiss-cpu", "gpu": "faiss-cuda"}[variant]
    }
    assert {"torch", "fastapi", "pg8000", "opentelemetry-sdk"} <= names
    assert not {"pytest", "mypy", "ruff"} & names


def test_the_lock_pins_all_that_the_image_installs() -> None:
    """Also what the packages need in turn, as far as it is installed here."""
    from importlib.metadata import PackageNotFoundError, requires

    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    waiting = [
        Requirement(line) for line in script(".ci/image_requirements.py").requirements("cpu")
    ]
    seen: set[str] = set()
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        extras = needed.extras or {""}
        if needed.marker and not any(needed.marker.evaluate({"extra": one}) for one in extras):
            continue
        if name in seen or name == "setuptools":  # pip freeze leaves setuptools out
            continue
        seen.add(name)
        assert name in pinned, name
        try:
            below = requires(name) or []
        except PackageNotFoundError:
            continue
        for line in below:
            inner = Requirement(line)
            marker = inner.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in extras):
                inner.marker = None
                waiting.append(inner)
    assert len(seen) > 60


def test_the_health_check_asks_a_live_server(
    served: Served, instructions: list[tuple[str, str]]
) -> None:
    (check,) = values(instructions, "HEALTHCHECK")
    command = exec_form(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-I"]  # nothing in the data folder is imported
    port = served.url.rpartition(":")[2]
    environ = {**os.environ, "YOUJU_PORT": port, "http_proxy": "http://127.0.0.1:9"}
    # -I leaves this checkout out as well, where it is not the one that is installed.
    command = [sys.executable, *(part for part in command[1:] if part != "-I")]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        command, env={**environ, "YOUJU_PORT": "1"}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Port 1 does not answer" in done.stderr


def test_the_health_check_says_what_is_wrong() -> None:
    assert "expected a port" in ready({"YOUJU_PORT": "http"})
    assert "expected a port" in ready({"YOUJU_PORT": "99999"})
    assert "does not answer" in ready({"YOUJU_PORT": "1"})


def youju(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "youju", *arguments]


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `youju serve`; yield the process and its URL when it listens."""
    process = subprocess.Popen(
        youju(*arguments), cwd=ROOT, text=True, env={**os.environ, "YOUJU_HOME": str(home)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://[\d.]+:(\d+)", said)
        assert found, (said, process.poll())
        yield process, f"http://127.0.0.1:{found[1]}"
    finally:
        process.kill()
        process.wait(10)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def test_the_containers_life(served_home: Path, instructions: list[tuple[str, str]]) -> None:
    """No key, no server; a key; ready; asked with the key; stopped by the signal."""
    environ = {**os.environ, "YOUJU_HOME": str(served_home)}
    command = exec_form(values(instructions, "CMD")[0])
    refused = subprocess.run(youju(*command), cwd=ROOT, env=environ, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "youju keys create" in refused.stderr
    made = subprocess.run(
        youju("keys", "create", "me", "--json"),
        cwd=ROOT, env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = json.loads(made.stdout)["key"]

    with running(served_home, *command, "--port", "0") as (process, url):
        port = url.rpartition(":")[2]
        end = time.monotonic() + 60
        while ready({"YOUJU_PORT": port}):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        answer = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        (stop,) = values(instructions, "STOPSIGNAL")
        process.send_signal(signal.Signals[stop])
        _, logged = process.communicate(timeout=30)
        # uvicorn hands the signal on when it is done
        assert process.returncode in (0, -signal.Signals[stop])
    lines = [json.loads(line) for line in logged.splitlines()]
    asked = [line for line in lines if line.get("route") == "/v1/models"]
    assert [line["status"] for line in asked] == [401, 200]
    documented = (ROOT / "docs/deploy.md").read_text("utf-8").partition("**Logs**")[2]
    for name in {name for line in asked for name in line}:
        assert f"`{name}`" in documented, name
    assert key not in logged
    assert asked[1]["key"].startswith("key_")


def test_every_metric_is_documented(served: Served) -> None:
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    with served.http() as http:
        shown = http.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", shown, re.M))
    # "_created" says since when a counter counts
    metrics = {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
    documented = dict(re.findall(r"^\| `(youju_\w+)` \| (\w+) \|", page, re.M))
    assert documented == metrics


def test_what_the_page_names_exists() -> None:
    from rag.config import Settings

    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    files = "".join((ROOT / name).read_text("utf-8") for name in COMPOSE)
    for name in set(re.findall(r"\bYOUJU_([A-Z_]+)", page)):
        assert name.lower() in Settings.model_fields or f"${{YOUJU_{name}:-" in files, name
    verb = r"docker compose (?:run --rm|up --detach) (?:--\S+ \S+ )?([a-z-]+)"
    assert set(re.findall(verb, page)) == {"api", "api-gpu"}
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link
