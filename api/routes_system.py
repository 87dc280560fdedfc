"""Whether the server lives and is ready, its numbers, its models, its documentation."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.access import Reader
from api.errors import ApiError
from api.models import ASSISTANT, ModelShown, embedding_model, generator_model
from api.schemas import Listing, Shown
from api.service import Service, service_of
from rag.store.pages import Slice

router = APIRouter(tags=["System"])
ServiceOf = Annotated[Service, Depends(service_of)]

STATIC = "/docs/static"
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
_MOST_STORES = 1000


class Alive(Shown):
    """The process runs."""

    status: str = "ok"


class Ready(Shown):
    """Whether requests can be answered; `waiting` says what is not ready, and why."""

    status: str
    waiting: dict[str, str]


@router.get("/livez")
@router.head("/livez", include_in_schema=False)
async def live() -> Alive:
    """Say that the process runs."""
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    responses={
        200: {"model": Ready, "description": "Ready."},
        503: {"model": Ready, "description": "Not ready."},
    },
)
async def ready(service: ServiceOf) -> Response:
    """Say whether requests can be answered now."""
    waiting = await service.at_the_gate(service.not_ready)
    body = Ready(status="waiting" if waiting else "ready", waiting=waiting)
    return JSONResponse(body.model_dump(), 503 if waiting else 200)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "The numbers, in Prometheus' text format."}},
)
async def metrics(service: ServiceOf) -> Response:
    """Return numbers for Prometheus; of all processes, where there are several."""
    registry = service.meters.registry
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder:
        _forget_the_dead(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models")
async def list_models(access: Reader, service: ServiceOf) -> Listing[ModelShown]:
    """List the names that can be given as `model`."""
    data = await _models(service, access.project_id)
    return Listing(data=data, first_id=data[0].id, last_id=data[-1].id)


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, access: Reader, service: ServiceOf) -> ModelShown:
    """Return one of them."""
    for model in await _models(service, access.project_id):
        if model.id == model_id:
            return model
    raise ApiError(404, f"No model {model_id[:80]!r}.", code="model_not_found", param="model_id")


@router.get("/docs", include_in_schema=False)
async def documentation(request: Request) -> HTMLResponse:
    """Show the API for trying out; everything it needs comes from this server."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=request.app.title,
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{STATIC}/favicon.png",
    )
    page.headers["content-security-policy"] = _DOCS_POLICY
    return page


def _forget_the_dead(folder: Path) -> None:
    """Let what processes were doing when they died not count as being done."""
    for path in folder.glob("gauge_live*_*.db"):
        number = path.stem.rpartition("_")[2]
        if number.isdecimal() and not _lives(int(number)):
            path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    if sys.platform == "win32":  # where that would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _models(service: Service, project_id: str) -> list[ModelShown]:
    names = [ASSISTANT]
    page = await service.run(
        service.stores.page, project_id, Slice(limit=_MOST_STORES, order="asc")
    )
    names += [f"{ASSISTANT}:{row.title}" for row in page.items if row.title]
    generator = generator_model(service.settings)
    names += [generator] if generator else []
    names.append(embedding_model(service.settings))
    return [ModelShown(id=name) for name in dict.fromkeys(names)]
