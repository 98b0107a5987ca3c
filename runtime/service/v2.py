"""The Open Inference Protocol v2 over REST, as clients of Triton and KServe speak it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.connection import Request
from litestar.params import FromPath

from runtime.service import tensors
from runtime.service.auth import PUBLIC, SCOPE, UNMETERED, principal_of
from runtime.service.budget import arrived
from runtime.service.config import Limits
from runtime.service.health import is_ready
from runtime.service.messages import ModelMetadata, ModelReady, ServerMetadata, TensorMetadata
from runtime.service.problems import Refused
from runtime.service.service import Here, Service, version
from runtime.service.tokens import Scope

READ: Final[dict[str, Any]] = {SCOPE: Scope.READ}
OPEN: Final[dict[str, Any]] = {SCOPE: PUBLIC}
INFER: Final[dict[str, Any]] = {SCOPE: Scope.READ, UNMETERED: True}
"""Its rate is what the network's own line bounds."""
MODEL: Final = "/models/{model:str}"
VERSION: Final = "/models/{model:str}/versions/{model_version:str}"

AnyRequest = Request[Any, Any, Any]


@get("/", opt=READ)
async def server(service: Here) -> ServerMetadata:
    """The server, and what it knows beyond the protocol."""
    return ServerMetadata(name="geoshift", version=version(), extensions=(tensors.BINARY_EXTENSION,))


@get("/health/live", opt=OPEN, media_type="text/plain")
async def live() -> Response[bytes]:
    """Whether the service is alive."""
    return _bare(HTTPStatus.OK)


@get("/health/ready", opt=OPEN, media_type="text/plain")
async def ready(service: Here) -> Response[bytes]:
    """Whether the model answers."""
    return _bare(_ready_status(await is_ready(service)))


@get([MODEL, VERSION], opt=READ)
async def metadata(service: Here, model: FromPath[str], model_version: FromPath[str | None] = None) -> ModelMetadata:
    """The model's input and output."""
    _require(service, model, model_version)
    entry = service.device.bundle.manifest.model
    return ModelMetadata(
        name=service.model,
        versions=(service.version,),
        platform="onnx_geoshift",
        inputs=(TensorMetadata(name=tensors.INPUT, datatype=tensors.DATATYPE, shape=(-1, *entry.input_shape)),),
        outputs=(TensorMetadata(name=tensors.OUTPUT, datatype=tensors.DATATYPE, shape=(-1, entry.outputs)),),
    )


@get([f"{MODEL}/ready", f"{VERSION}/ready"], opt=READ)
async def model_ready(
    service: Here, model: FromPath[str], model_version: FromPath[str | None] = None
) -> Response[ModelReady]:
    """Whether the model answers."""
    _require(service, model, model_version)
    well = await is_ready(service)
    return Response(ModelReady(name=service.model, ready=well), status_code=_ready_status(well))


def infer_handler(limits: Limits) -> Any:
    """The handler of inference, whose body may be larger than others'."""

    @post(
        [f"{MODEL}/infer", f"{VERSION}/infer"],
        opt=INFER,
        status_code=HTTPStatus.OK,
        request_max_body_size=limits.infer_bytes,
        media_type="application/json",
    )
    async def infer(
        service: Here, request: AnyRequest, model: FromPath[str], model_version: FromPath[str | None] = None
    ) -> Response[bytes]:
        """Outputs for a batch of inputs, in JSON or as raw tensors."""
        _require(service, model, model_version)
        length = request.headers.get(tensors.LENGTH_HEADER)
        with service.bodies.opened(principal_of(request).id) as share:
            body = await arrived(request, share)
            share.grow_to(tensors.memory_bytes(len(body), length))
            release = None if model_version is None else int(model_version)
            content, json_bytes = await service.inference.run(_answer, service, body, length, release)
        if json_bytes is None:
            return Response(content, media_type="application/json")
        return Response(
            content,
            media_type="application/octet-stream",
            headers={"Inference-Header-Content-Length": str(json_bytes)},
        )

    return infer


def router(limits: Limits) -> Router:
    """The protocol's routes."""
    return Router(
        "/v2",
        route_handlers=[server, live, ready, metadata, model_ready, infer_handler(limits)],
        tags=["inference"],
    )


def _answer(
    service: Service, body: bytearray, json_length: str | None, release: int | None
) -> tuple[bytes, int | None]:
    """Decode, ask the network and encode: all that takes time, on a thread."""
    question = tensors.decode(body, json_length, service.device.bundle.manifest.model.input_shape)
    answer = service.device.answer(question.x, release)
    return tensors.encode(answer.outputs, question, service.model, str(answer.release))


def _require(service: Service, model: str, model_version: str | None) -> None:
    if model != service.model:
        raise Refused(HTTPStatus.NOT_FOUND, f"model: found {model[:64]!r}, expected {service.model!r}")
    if model_version not in {None, service.version}:
        raise Refused(
            HTTPStatus.NOT_FOUND, f"model version: found {str(model_version)[:64]!r}, expected {service.version!r}"
        )


def _ready_status(well: bool) -> HTTPStatus:
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE


def _bare(status: HTTPStatus) -> Response[bytes]:
    """An answer whose status says all."""
    return Response(b"", status_code=status, media_type="text/plain")
