"""The interface described by itself: OpenAPI, derived from the types of the handlers."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Router
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from runtime.service.auth import PUBLIC, SCOPE
from runtime.service.problems import MEDIA_TYPE
from runtime.service.service import version
from runtime.service.tensors import LENGTH_HEADER, InferRequest, InferResponse
from runtime.service.tokens import Scope

PATH: Final = "/v1/schema"
FILE: Final = "/openapi.json"
INFER: Final = "/infer"
_METHODS: Final = {"get", "post", "put", "delete"}
_RAW: Final[dict[str, Any]] = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "The JSON form, and behind it the raw tensor: float32, little endian, C order.",
    }
}
_LENGTH: Final[dict[str, Any]] = {
    "description": "Bytes of the JSON, where a raw tensor follows.",
    "schema": {"type": "integer", "minimum": 1},
}
_PROBLEM: Final[dict[str, Any]] = {
    "description": "A problem, as RFC 9457 has it.",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "instance"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "instance": {"type": "string"},
                    "error": {"type": "string"},
                },
            }
        }
    },
}


class _Document(JsonRenderPlugin):
    """The document as JSON, every operation with what no type says: the form of its errors, and whether it is open."""

    made: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document; made once, since it takes tens of milliseconds of the event loop."""
        if self.made is None:
            self.made = self._make(request, openapi_schema)
        return self.made

    def _make(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        public = {
            (route.path_format, method.lower())
            for route in request.app.routes
            if isinstance(route, HTTPRoute)
            for handler in route.route_handlers
            if handler.opt.get(SCOPE) == PUBLIC
            for method in handler.http_methods
        }
        paths = {
            path: {
                name: _completed(part, public=(path, name) in public) if name in _METHODS else part
                for name, part in item.items()
            }
            for path, item in openapi_schema["paths"].items()
        }
        (asked, answered), records = msgspec.json.schema_components(
            (InferRequest, InferResponse), ref_template="#/components/schemas/{name}"
        )
        for path, item in paths.items():
            if path.endswith(INFER):
                item["post"] = _inference(item["post"], asked, answered)
        components = openapi_schema["components"]
        components = {**components, "schemas": {**components["schemas"], **records}}
        return super().render(request, {**openapi_schema, "paths": paths, "components": components})


def description() -> OpenAPIConfig:
    """Settings of the description; whoever may read the device may read it."""
    return OpenAPIConfig(
        title="geoshift",
        version=version(),
        description="A neural network that changes its power mode while it answers.",
        render_plugins=[_Document(path=FILE)],
        openapi_router=Router(
            PATH, route_handlers=[], opt={SCOPE: Scope.READ}, include_in_schema=False, before_request=_only_the_file
        ),
        components=Components(
            security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="A device's token.")}
        ),
        security=[{"token": []}],
        use_handler_docstrings=True,
    )


def _completed(operation: dict[str, Any], *, public: bool) -> dict[str, Any]:
    whole = {**operation, "responses": {**_expected(operation), "default": _PROBLEM}}
    return {**whole, "security": []} if public else whole


def _inference(operation: dict[str, Any], asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    """The operation of inference with its two forms: its handler takes bytes, so the framework knows of neither."""
    responses = operation["responses"]
    return {
        **operation,
        "parameters": [*operation["parameters"], {"name": LENGTH_HEADER, "in": "header", "required": False, **_LENGTH}],
        "requestBody": {"required": True, "content": _forms(asked)},
        "responses": {
            **responses,
            "200": {**responses["200"], "content": _forms(answered), "headers": {LENGTH_HEADER: _LENGTH}},
        },
    }


def _forms(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}, "application/octet-stream": _RAW}


def _expected(operation: dict[str, Any]) -> dict[str, Any]:
    """Answers of an operation that are no errors, whose form in the framework is another; an empty one has no type."""
    return {
        status: {name: value for name, value in part.items() if name != "content"} if status == "204" else part
        for status, part in operation.get("responses", {}).items()
        if not status.startswith("4")
    }


def _only_the_file(request: Request[Any, Any, Any]) -> None:
    """Nothing else below this path; the framework would answer with a page of its own."""
    if request.scope["path"] != PATH + FILE:
        raise NotFoundException
