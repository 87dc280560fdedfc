"""Completes /openapi.json: what FastAPI cannot know, or says of itself and we do differently.

Examples come from `examples.py`. Bounds of whole numbers are whole, answers carry their headers,
and links say which answer's id another request takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from api.examples import EXAMPLES, OTHER_EXAMPLES, PARAMETERS
from rag.filters import MAX_KEY_CHARS, MAX_VALUES

Json = dict[str, Any]

_REF: Final = "#/components/schemas/"
_OPEN: Final = frozenset({"200", "500", "503"})
"""What routes without a key answer: admission lets them pass, and they take nothing."""

_REQUEST_ID: Final[Json] = {
    "description": "Names the request in the server's log.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}
_WAIT: Final[Json] = {
    "description": "Seconds after which asking again can help.",
    "schema": {"type": "integer", "minimum": 1},
}
_SCHEME: Final[Json] = {
    "description": "How to send a key.",
    "required": True,
    "schema": {"type": "string", "const": "Bearer"},
}

_NO_NUL: Final = r"^[^\u0000]*$"
_SCALAR: Final[Json] = {"type": ["string", "number", "boolean"], "pattern": _NO_NUL}
_KEY: Final[Json] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_KEY_CHARS,
    "pattern": _NO_NUL,
}
_FILTERS: Final[dict[str, Json]] = {
    "ComparisonFilter": {
        "type": "object",
        "description": "An attribute against a value. A file without the attribute passes `ne`.",
        "properties": {
            "type": {"type": "string", "enum": ["eq", "ne", "gt", "gte", "lt", "lte"]},
            "key": _KEY,
            "value": _SCALAR,
        },
        "required": ["type", "key", "value"],
        "additionalProperties": False,
    },
    "MembershipFilter": {
        "type": "object",
        "description": "An attribute against several values.",
        "properties": {
            "type": {"type": "string", "enum": ["in", "nin"]},
            "key": _KEY,
            "value": {
                "type": "array",
                "items": {"type": ["string", "number"], "pattern": _NO_NUL},
                "maxItems": MAX_VALUES,
            },
        },
        "required": ["type", "key", "value"],
        "additionalProperties": False,
    },
    "CompoundFilter": {
        "type": "object",
        "description": "Filters of which all (`and`) or one (`or`) must pass; at most 64, 8 deep.",
        "properties": {
            "type": {"type": "string", "enum": ["and", "or"]},
            "filters": {
                "type": "array",
                "items": {"$ref": f"{_REF}AttributeFilter"},
                "minItems": 1,
                "maxItems": 63,
            },
        },
        "required": ["type", "filters"],
        "additionalProperties": False,
    },
    "AttributeFilter": {
        "description": "Which files are searched, by their attributes.",
        "oneOf": [
            {"$ref": f"{_REF}ComparisonFilter"},
            {"$ref": f"{_REF}MembershipFilter"},
            {"$ref": f"{_REF}CompoundFilter"},
        ],
        "examples": [{"type": "eq", "key": "year", "value": 2024}],
    },
}
"""What `rag.filters.parse_filter` takes, as a schema."""

_NOT_NULL: Final[Json] = {"not": {"type": "null"}}
_RULES: Final[dict[str, Json]] = {
    "BatchCreate": {
        "oneOf": [
            {"required": [name], "properties": {name: {"type": "array"}}}
            for name in ("file_ids", "files")
        ]
    },
    "InputItem": {
        "anyOf": [
            {"required": ["type"], "properties": {"type": {"const": "file_search_call"}}},
            {
                "required": ["role", "content"],
                "properties": {"role": _NOT_NULL, "content": _NOT_NULL},
            },
        ]
    },
    "MetadataTest": {
        "anyOf": [
            {
                "properties": {
                    "comparison_operator": {"enum": ["empty", "not empty", "null", "not null"]}
                }
            },
            {"required": ["value"], "properties": {"value": _NOT_NULL}},
        ]
    },
}
"""What the validators of these models check, as far as JSON Schema can say it."""

_FILE: Final = {"file_id": "$response.body#/id"}
_STORE: Final = {"store_id": "$response.body#/id"}
_IN_STORE: Final = {
    "store_id": "$response.body#/vector_store_id",
    "file_id": "$response.body#/id",
}
_IN_BATCH: Final = {
    "store_id": "$response.body#/vector_store_id",
    "batch_id": "$response.body#/id",
}
_UPLOAD: Final = {"upload_id": "$response.body#/id"}
_RESPONSE: Final = {"response_id": "$response.body#/id"}
_LINKS: Final[tuple[tuple[str, Mapping[str, str], tuple[str, ...]], ...]] = (
    ("create_file", _FILE, ("get_file", "get_file_content", "delete_file")),
    ("create_upload", _UPLOAD, ("add_part", "complete_upload", "cancel_upload")),
    ("add_part", {"upload_id": "$response.body#/upload_id"}, ("complete_upload", "cancel_upload")),
    (
        "create_store",
        _STORE,
        ("get_store", "update_store", "add_file", "list_store_files", "create_batch",
         "search_store", "delete_store"),
    ),
    (
        "add_file",
        _IN_STORE,
        ("get_store_file", "update_store_file", "get_parsed_text", "remove_file"),
    ),
    ("create_batch", _IN_BATCH, ("get_batch", "list_batch_files", "cancel_batch")),
    ("create_response", _RESPONSE, ("get_response", "create_feedback", "delete_response")),
)  # fmt: skip
"""Which requests take ids from an answer: of what, which ids, to where."""


def complete(schema: Json) -> Json:
    """Complete a schema in place, and return it.

    Args:
        schema: As FastAPI makes it of the routes.
    """
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name, rule in _RULES.items():
        schemas[name] |= rule
    schemas |= _FILTERS
    for name in ("SearchRequest", "FileSearchTool"):
        schemas[name]["properties"]["filters"]["anyOf"][0] = {"$ref": f"{_REF}AttributeFilter"}
    for name, examples in EXAMPLES.items():
        schemas[name]["examples"] = examples
    for operation in operations(schema).values():
        _complete_answers(operation)
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                parameter["example"] = PARAMETERS[parameter["name"]]
    _link(operations(schema))
    _whole_bounds(schemas)
    _whole_bounds(schema["paths"])
    return schema


def operations(schema: Json) -> dict[str, Json]:
    """Return the operations of a schema by their ids."""
    found = [operation for path in schema["paths"].values() for operation in path.values()]
    return {operation["operationId"]: operation for operation in found}


def _complete_answers(operation: Json) -> None:
    responses: dict[str, Json] = operation["responses"]
    responses.pop("422", None)  # FastAPI adds it by itself; here that is a 400
    if "security" not in operation:
        for status in responses.keys() - _OPEN:
            del responses[status]
        if operation["operationId"] != "ready":
            responses.pop("503", None)
    for status, answer in responses.items():
        if status >= "4":  # errors are JSON, whatever an answer is
            answer["content"] = {"application/json": _only(answer["content"])}
        headers = answer.setdefault("headers", {})
        headers["X-Request-Id"] = _REQUEST_ID
        if status in ("429", "503") and operation["operationId"] != "ready":
            headers["Retry-After"] = _WAIT | {"required": status == "429"}
        if status == "401":
            headers["WWW-Authenticate"] = _SCHEME
    for media_type, content in responses["200"].get("content", {}).items():
        example = OTHER_EXAMPLES.get((operation["operationId"], media_type))
        if example is not None:
            content["example"] = example


def _only(content: Json) -> Json:
    (described,) = content.values()
    found: Json = described
    return found


def _link(by_id: Mapping[str, Json]) -> None:
    for source, parameters, targets in _LINKS:
        links = by_id[source]["responses"]["200"].setdefault("links", {})
        for target in targets:
            links[target] = {"operationId": target, "parameters": dict(parameters)}
    joined = by_id["add_part"]["responses"]["200"]["links"]["complete_upload"]
    joined["requestBody"] = {"part_ids": ["$response.body#/id"]}


def _whole_bounds(node: Any) -> None:  # noqa: ANN401
    """Write the bounds of whole numbers as whole numbers."""
    for inner in _inside(node):
        if inner.get("type") == "integer":
            for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                if isinstance(inner.get(name), float):
                    inner[name] = int(inner[name])


def _inside(node: Any) -> Iterator[Json]:  # noqa: ANN401
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _inside(value)
    elif isinstance(node, list):
        for value in node:
            yield from _inside(value)
