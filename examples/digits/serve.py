"""Serve one ONNX model over HTTP in the Open Inference Protocol, version 2.

The model folder ``MODEL_DIR`` holds ``model.onnx`` and ``config.json``::

    {"name": "digits", "version": "1.0",
     "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
     "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}]}

The configuration is what clients are promised: requests are checked against it, and the server
calls itself ready only after an inference of exactly that form has gone through the model.
While that is not so, it is live, says why it is not ready (503), and answers no inference.

Environment: ``MODEL_DIR``, ``PORT`` (8080), ``THREADS`` (1) for one inference, which is also how
many run at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

import anyio
import anyio.to_thread
import numpy as np
import onnxruntime
import uvicorn
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

log = logging.getLogger("serve")

DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}
ACCEPTED_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}  # of a dtype: of the data for it
MAX_BODY = 8 * 2**20  # bytes
SHUTDOWN_SECONDS = 8  # for requests under way; less than the 10 s that engines grant a stop

disable_created_metrics()
# MLServer's names, which dashboards and gates for this protocol know.
_LABELS = ["model_name", "model_version"]
SUCCESSES = Counter("model_infer_request_success", "Inferences answered", _LABELS)
FAILURES = Counter("model_infer_request_failure", "Inferences that the model failed", _LABELS)
REJECTIONS = Counter("model_infer_request_rejected", "Requests that were refused", _LABELS)
DURATIONS = Histogram(
    "model_infer_request_duration",
    "Seconds from the whole request to its answer",
    _LABELS,
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
READY = Gauge("model_ready", "1 when the model answers inferences", _LABELS)


class RequestError(ValueError):
    """The request doesn't fit the protocol or the model; the text tells the client why."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, datatype and shape of an input or output; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def read(self, tensor: dict[str, Any]) -> np.ndarray:
        """Check one tensor of a request and return its values in the shape that it names."""
        where = f"input {self.name!r}"
        if tensor.get("datatype") != self.datatype:
            raise RequestError(f"{where}: datatype must be {self.datatype}")
        shape = tensor.get("shape")
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise RequestError(f"{where}: shape must be a list of integers")
        if len(shape) != len(self.shape) or not all(
            size == wanted or (wanted == -1 and size > 0)
            for size, wanted in zip(shape, self.shape, strict=True)
        ):
            raise RequestError(f"{where}: shape must be {list(self.shape)} (-1: any), not {shape}")
        return self._values(tensor.get("data"), where, math.prod(shape)).reshape(shape)

    def _values(self, data: Any, where: str, count: int) -> np.ndarray:
        if not isinstance(data, list):
            raise RequestError(f"{where}: data must be a list")
        dtype = np.dtype(DTYPES[self.datatype])
        try:
            values = np.asarray(data)
        except (ValueError, OverflowError):
            raise RequestError(f"{where}: data must be flat or nested evenly") from None
        if values.size != count:
            raise RequestError(f"{where}: shape wants {count} values, data has {values.size}")
        if values.dtype.kind not in ACCEPTED_KINDS[dtype.kind]:
            raise RequestError(f"{where}: data must be {self.datatype} values")
        with np.errstate(over="ignore"):
            typed = values.astype(dtype)
        if not (np.isfinite(typed).all() if dtype.kind == "f" else (typed == values).all()):
            raise RequestError(f"{where}: data has values that {self.datatype} cannot hold")
        return typed

    def describe(self) -> dict[str, Any]:
        """The protocol's metadata of this tensor."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class Model:
    """A model folder: its configuration at once, its graph after :meth:`load`."""

    def __init__(self, folder: Path, threads: int) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.name: str = config["name"]
        self.version: str = config["version"]
        self.inputs, self.outputs = (
            {
                spec["name"]: TensorSpec(spec["name"], spec["datatype"], tuple(spec["shape"]))
                for spec in config[key]
            }
            for key in ("inputs", "outputs")
        )
        self.labels = (self.name, self.version)
        self.limiter = anyio.CapacityLimiter(threads)
        self.not_ready: str | None = "the model is loading"
        self._file = folder / "model.onnx"
        self._threads = threads
        self._session: onnxruntime.InferenceSession | None = None

    def load(self) -> None:
        """Read the graph and warm it up; afterwards ``not_ready`` is None or says what failed."""
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._threads
            options.inter_op_num_threads = 1
            # A thread that spins for work heats a small device and starves its neighbours.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = onnxruntime.InferenceSession(
                str(self._file), options, providers=["CPUExecutionProvider"]
            )
            self.run(
                {
                    name: np.zeros([abs(size) for size in spec.shape], DTYPES[spec.datatype])
                    for name, spec in self.inputs.items()
                },
                list(self.outputs),
            )
        except Exception as error:
            self.not_ready = f"the warm-up failed: {error}"
            log.error("%s %s is not ready: %s", self.name, self.version, self.not_ready)
        else:
            self.not_ready = None
            log.info("%s %s is ready", self.name, self.version)
        READY.labels(*self.labels).set(self.not_ready is None)

    def run(self, feed: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        """Infer; safe in several threads."""
        assert self._session is not None, "load() comes first"  # noqa: S101
        return list(self._session.run(outputs, feed))

    def read(self, body: bytes) -> tuple[dict[str, np.ndarray], list[str], str | None]:
        """Check an inference request; return its tensors, the outputs it asks for and its id."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError("the body is not JSON") from None
        if not isinstance(request, dict):
            raise RequestError("the body must be a JSON object")
        ident = request.get("id")
        if not isinstance(ident, str | None):
            raise RequestError("id must be a string")
        tensors = _by_name(request.get("inputs"), "inputs", self.inputs)
        if missing := sorted(self.inputs.keys() - tensors.keys()):
            raise RequestError(f"inputs: missing {', '.join(missing)}")
        feed = {name: self.inputs[name].read(tensor) for name, tensor in tensors.items()}
        wanted = request.get("outputs")
        outputs = self.outputs if wanted is None else _by_name(wanted, "outputs", self.outputs)
        return feed, list(outputs), ident

    def answer(self, names: list[str], arrays: list[np.ndarray], ident: str | None) -> dict:
        """The protocol's inference response."""
        response = {
            "model_name": self.name,
            "model_version": self.version,
            "outputs": [
                {
                    "name": name,
                    "datatype": self.outputs[name].datatype,
                    "shape": list(array.shape),
                    "data": array.ravel().tolist(),
                }
                for name, array in zip(names, arrays, strict=True)
            ],
        }
        return response if ident is None else {**response, "id": ident}


def _by_name(tensors: Any, key: str, known: dict[str, TensorSpec]) -> dict[str, dict[str, Any]]:
    if not isinstance(tensors, list) or not tensors:
        raise RequestError(f"{key} must be a list of tensors")
    found: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or name not in known:
            raise RequestError(f"{key}: every tensor must be named, one of {', '.join(known)}")
        if name in found:
            raise RequestError(f"{key}: {name} comes twice")
        found[name] = tensor
    return found


class Endpoints:
    """The protocol's routes over one model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def application(self) -> Starlette:
        """The ASGI application; it loads its model in the background once it runs."""
        routes = [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/metrics", self.metrics),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(path, self.metadata),
                Route(f"{path}/ready", self.model_ready),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            ]
        return Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _http_error, RequestError: self._refused},
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, self.model.load)
            yield

    async def server(self, _: Request) -> Response:
        return JSONResponse({"name": "serve", "version": "1.0", "extensions": []})

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        return self._readiness({})

    async def model_ready(self, request: Request) -> Response:
        self._check_model(request)
        return self._readiness({"name": self.model.name})

    async def metadata(self, request: Request) -> Response:
        self._check_model(request)
        return JSONResponse(
            {
                "name": self.model.name,
                "versions": [self.model.version],
                "platform": "onnxruntime_onnx",
                "inputs": [spec.describe() for spec in self.model.inputs.values()],
                "outputs": [spec.describe() for spec in self.model.outputs.values()],
            }
        )

    async def infer(self, request: Request) -> Response:
        self._check_model(request)
        model = self.model
        if model.not_ready is not None:
            raise HTTPException(503, model.not_ready)
        body = await _body(request)
        start = perf_counter()
        feed, outputs, ident = model.read(body)
        try:
            arrays = await anyio.to_thread.run_sync(model.run, feed, outputs, limiter=model.limiter)
        except Exception as error:
            log.exception("an inference failed")
            FAILURES.labels(*model.labels).inc()
            raise HTTPException(500, f"the model failed: {error}") from None
        response = JSONResponse(model.answer(outputs, arrays, ident))
        DURATIONS.labels(*model.labels).observe(perf_counter() - start)
        SUCCESSES.labels(*model.labels).inc()
        return response

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    def _check_model(self, request: Request) -> None:
        name, version = request.path_params["model"], request.path_params.get("version")
        if name != self.model.name or version not in (None, self.model.version):
            wanted = name if version is None else f"{name} version {version}"
            raise HTTPException(404, f"no model {wanted}")

    def _readiness(self, document: dict[str, Any]) -> Response:
        reason = self.model.not_ready
        if reason is None:
            return JSONResponse({**document, "ready": True})
        return JSONResponse({**document, "ready": False, "error": reason}, 503)

    async def _refused(self, _: Request, error: Exception) -> Response:
        REJECTIONS.labels(*self.model.labels).inc()
        return JSONResponse({"error": str(error)}, 400)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    return bytes(body)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and end with status 0."""
    # uvicorn raises the signal again when it is done; and process 1 has no default handlers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    onnxruntime.disable_telemetry_events()
    try:
        port, threads = (int(os.environ.get(*of)) for of in (("PORT", "8080"), ("THREADS", "1")))
        if threads < 1:
            raise ValueError("THREADS must be 1 or more")
        model = Model(Path(os.environ["MODEL_DIR"]), threads)
    except (KeyError, OSError, ValueError) as error:
        sys.exit(f"serve: {type(error).__name__}: {error}")
    for family in (SUCCESSES, FAILURES, REJECTIONS, DURATIONS, READY):
        family.labels(*model.labels)  # present from the start, as zeros
    uvicorn.run(
        Endpoints(model).application(),
        host="0.0.0.0",  # noqa: S104 - the container's own network
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
