"""Who asks, and what they may do.

A key comes as `Authorization: Bearer sk-youju-...`. As long as no key was ever made, everything is
open, and the server listens to its own machine only; then it also refuses what a page of another
site has a browser send (by the headers Host, Origin and Sec-Fetch-Site) and what a proxy passes on
for others, since that comes from this machine, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from api.errors import DIFY_PATH, ApiError, answer_error
from api.observing import note
from api.service import Service, service_of
from rag.errors import YoujuError
from rag.store.projects import Access, Keys, Scope
from rag.store.tables import DEFAULT_PROJECT

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_RANK: dict[Scope, int] = {"read": 0, "write": 1, "admin": 2}
_REMEMBERED_S = 1.0
_MOST_REMEMBERED = 1000
_LONGEST_KEY = 200  # characters; ours have 52
_SITE = "sec-fetch-site"  # where a browser says that a request comes from
_KNOWN = "youju_access"  # where a request's scope holds who asks, once that is known
_OPEN = Access(DEFAULT_PROJECT, "admin")

bearer = HTTPBearer(auto_error=False, description="A key made by `youju keys create`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


class Doorman:
    """Tells whom a key belongs to, and counts its requests.

    What the database says is remembered for a second, so that a key that is revoked is worthless
    within one.

    Args:
        keys: The database's.
        per_minute: Requests that one key may make in a minute, in this process; 0: any number.
    """

    def __init__(self, keys: Keys, per_minute: int) -> None:
        self._keys = keys
        self._limit = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._known: dict[str, tuple[float, Access | None]] = {}
        self._closed: tuple[float, bool] = (0.0, False)

    async def closed(self, service: Service) -> bool:
        """Whether a key is needed: from the moment on that one was made."""
        until, known = self._closed
        if not known and time.monotonic() >= until:
            known = await service.at_the_gate(self._keys.exist)
            self._closed = (time.monotonic() + _REMEMBERED_S, known)
        return known

    async def access(self, service: Service, key: str) -> Access | None:
        """Return what a key allows, or None."""
        if len(key) > _LONGEST_KEY:
            return None
        now = time.monotonic()
        until, known = self._known.get(key, (0.0, None))
        if now < until:
            return known
        found = await service.at_the_gate(self._keys.access, key)
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = (now + _REMEMBERED_S, found)
        return found

    def count(self, key_id: str) -> int:
        """Count a request; return 0, or the seconds to wait if it is one too many."""
        if self._limit is None or not key_id or self._limiter.hit(self._limit, key_id):
            return 0
        reset = self._limiter.get_window_stats(self._limit, key_id).reset_time
        return max(1, int(reset - time.time()) + 1)


async def authenticate(request: Request, credentials: Credentials) -> Access:
    """Return who asks.

    Raises:
        ApiError: 401 without a valid key, 403 for a page of another site, 429 for too many.
    """
    known = request.scope.get(_KNOWN)
    if isinstance(known, Access):  # and counted
        return known
    service = await service_of(request)
    doorman = service.doorman
    if not await doorman.closed(service):
        _check_local(request)
        return _OPEN
    if credentials is None:
        raise ApiError(
            401,
            "No API key: expected the header 'Authorization: Bearer sk-youju-...'.",
            code="missing_api_key",
            kind="authentication_error",
            headers={"www-authenticate": "Bearer"},
        )
    found = await doorman.access(service, credentials.credentials)
    if found is None:
        raise ApiError(
            401,
            "The API key is not valid: unknown, expired or revoked.",
            code="invalid_api_key",
            kind="authentication_error",
            headers={"www-authenticate": "Bearer"},
        )
    note(request.scope, key=found.key_id)
    wait = doorman.count(found.key_id)
    if wait:
        service.meters.refused.labels("rate").inc()
        raise ApiError(
            429,
            f"Too many requests with this key. Try again in {wait} s.",
            code="rate_limit_exceeded",
            kind="rate_limit_error",
            headers={"retry-after": str(wait)},
        )
    return found


def _check_local(request: Request) -> None:
    """Refuse what another site's page has a browser of this machine send."""
    host = _hostname(f"//{request.headers.get('host', '')}")
    origin = request.headers.get("origin")
    near = request.client is None or request.client.host in LOOPBACK  # else a proxy passed it on
    own = origin is None or _hostname(origin) in LOOPBACK
    if near and own and host in LOOPBACK and request.headers.get(_SITE) != "cross-site":
        return
    raise ApiError(
        403,
        "Without API keys only this machine's own pages and programs may ask. "
        "Make a key: youju keys create NAME",
        code="not_local",
        kind="permission_error",
    )


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class KeyFirst:
    """A layer that asks for the key before a byte of a body is read.

    A route's own dependencies run when its body has been read; that is too late for who has no key.

    Args:
        app: Who answers.
        routes: All routes; a refused request is counted under its own.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        route = self._route(scope) if _brings_a_body(scope) else None
        if route is None:  # no body is read, or nobody is there to read it
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            scope[_KNOWN] = await authenticate(request, await bearer(request))
        except (ApiError, YoujuError) as error:
            scope["route"] = route
            await answer_error(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _route(self, scope: ASGIScope) -> BaseRoute | None:
        whole = (route for route in self._routes if route.matches(scope)[0] is Match.FULL)
        return next(whole, None)


def _brings_a_body(scope: ASGIScope) -> bool:
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    return bool(scope["path"].startswith("/v1/") or scope["path"] == DIFY_PATH)


class _Needs:
    """A dependency: who asks, if their key has the scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, access: Annotated[Access, Depends(authenticate)]) -> Access:
        if _RANK[access.scope] < _RANK[self._scope]:
            raise ApiError(
                403,
                f"This key may only {access.scope}; the request needs the scope {self._scope!r}.",
                code="insufficient_scope",
                kind="permission_error",
            )
        return access


Reader = Annotated[Access, Depends(_Needs("read"))]
Writer = Annotated[Access, Depends(_Needs("write"))]
