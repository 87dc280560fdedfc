"""Puts the application together. Importing it does nothing; `create` makes everything."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from api import (
    routes_chat,
    routes_dify,
    routes_embeddings,
    routes_feedback,
    routes_files,
    routes_responses,
    routes_search,
    routes_store_files,
    routes_stores,
    routes_system,
    routes_uploads,
)
from api.access import KeyFirst
from api.admission import Admission
from api.cors import Cors
from api.described import complete
from api.errors import install
from api.observing import Meters, Observed
from api.schemas import ERRORS
from api.service import MakeJobs, Service
from api.tracing import NoTracing, OtelTracing, Traced, Tracing, tracing_from
from api.upkeep import Upkeep
from rag.build import Rag, build_rag
from rag.config import load_settings

_ROUTERS = (
    routes_files.router,
    routes_uploads.router,
    routes_stores.router,
    routes_store_files.router,
    routes_search.router,
    routes_responses.router,
    routes_chat.router,
    routes_feedback.router,
    routes_embeddings.router,
    routes_dify.router,
    routes_system.router,
)
# FastAPI's own spans and logs may hold paths, queries and exceptions; api.tracing makes ours.
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
LEAVE_S = 20.0
"""Seconds in which a server that is told to end closes what it has open."""

_ABOUT = (
    "Ask your own documents, and get answers whose citations can be checked. "
    "The routes under /v1 are OpenAI's; fields that OpenAI does not have are marked as extensions."
)


def create() -> ASGIApp:
    """Return the application that settings and environment ask for, for a server to run."""
    from api.logs import set_up

    set_up()
    tracing = tracing_from(os.environ)
    return application(build_rag(load_settings().settings), tracing, leave_soon)


def leave_soon() -> None:
    """Have the process end in a while, whatever still runs.

    A thread that waits for an endpoint cannot be stopped, and Python would wait for it for minutes.
    Nothing is lost: what is acknowledged is in the database.
    """
    timer = threading.Timer(LEAVE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()


def application(
    rag: Rag,
    tracing: Tracing | None = None,
    leave: Callable[[], None] = lambda: None,
    make_jobs: MakeJobs | None = None,
) -> ASGIApp:
    """Return the application over given parts, with all layers around it.

    Args:
        rag: The parts.
        tracing: Where traces go; closed with the application. None: nowhere.
        leave: Called when the server begins to end.
        make_jobs: Makes who ingests files; None: a process beside this one.
    """
    meters = Meters(CollectorRegistry())
    tracing = tracing or NoTracing()
    app = make_app(rag, meters, tracing, leave, make_jobs)
    settings = rag.settings
    layers: ASGIApp = Admission(
        app,
        most=settings.max_requests,
        body_bytes=settings.max_body_kib * 1024,
        file_bytes=int(settings.max_file_mib * 1024 * 1024),
        timeout_s=settings.request_timeout,
        meters=meters,
    )
    if isinstance(tracing, OtelTracing):
        layers = Traced(layers, tracing)
    return Observed(layers, meters, log_content=settings.log_content)


def make_app(
    rag: Rag,
    meters: Meters,
    tracing: Tracing,
    leave: Callable[[], None] = lambda: None,
    make_jobs: MakeJobs | None = None,
) -> FastAPI:
    """Return the bare application: routes and errors."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(rag, meters, tracing, make_jobs)
        app.state.service = service
        service.start()
        upkeep = Upkeep(service)
        upkeep.start()
        try:
            yield
        finally:
            leave()
            upkeep.close()
            service.close()

    app = FastAPI(
        title="Youju",
        version=version("youju"),
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirection would repeat what the header Host says
        responses=ERRORS,
        telemetry=_NO_TELEMETRY,
        generate_unique_id_function=_operation_id,
    )
    routes = [route for router in _ROUTERS for route in router.routes]
    install(app, routes)
    for router in _ROUTERS:
        app.include_router(router)
    static = files("fastapi_offline") / "static"
    app.mount(routes_system.STATIC, StaticFiles(directory=str(static)), name="docs")
    app.add_middleware(KeyFirst, routes=routes)
    origins = [origin.strip() for origin in rag.settings.cors_origins.split(",") if origin.strip()]
    if origins:
        app.add_middleware(Cors, origins=origins)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(described())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
