"""The interceptors that stand before every RPC of a service."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import structlog

from gridwright.errors import GridwrightError
from gridwright.telemetry.metrics import RpcMetrics
from gridwright.wire.call import CallMetadata
from gridwright.wire.request_metadata import request_metadata
from gridwright.wire.statuses import DETAILS_KEY, status_code, trailer_status

log = structlog.get_logger(__name__)

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only


class _Interceptor(grpc.aio.ServerInterceptor):
    """Replaces each handler by one that :meth:`around` wraps, made once per method."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        path = handler_call_details.method
        if wrapped := self._wrapped.get(path):
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # an unknown method: grpc answers UNIMPLEMENTED; not remembered, paths are the caller's
        self._wrapped[path] = wrapped = _rewrap(handler, self.around(path, _as_coroutine(handler)))
        return wrapped

    def around(self, path: str, behaviour: Behaviour) -> Behaviour:
        raise NotImplementedError


class StatusInterceptor(_Interceptor):
    """Turns whatever a servicer raises into a status.

    Errors of our family have a row in ``wire.statuses``. Anything else is a fault of ours:
    it is logged with its traceback, and the caller hears ``unexpected_codes[service]``
    (INTERNAL by default) and nothing of what happened inside.
    """

    def __init__(self, unexpected_codes: Mapping[str, grpc.StatusCode] | None = None) -> None:
        super().__init__()
        self._unexpected_codes = unexpected_codes or {}

    def around(self, path: str, behaviour: Behaviour) -> Behaviour:
        unexpected = self._unexpected_codes.get(path.split("/")[1], grpc.StatusCode.INTERNAL)

        async def with_status(request: Any, context: Any) -> Any:
            answering = behaviour(request, context)
            del request  # see _forget_frames
            failure: GridwrightError | None = None
            try:
                return await answering
            except GridwrightError as error:
                failure = error
                _forget_frames(error)
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                raise
            except Exception as error:
                log.exception("rpc_failed", method=path, **_caller(context))
                _forget_frames(error)
            if failure is not None:
                await _abort(context, failure)
            await context.abort(unexpected, "internal error; the server's log has the details")

        return with_status


class MetricsInterceptor(_Interceptor):
    """Counts calls by method and code, and how long they took."""

    def __init__(self, metrics: RpcMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def around(self, path: str, behaviour: Behaviour) -> Behaviour:
        observe = self._metrics.observer(path)

        async def measured(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            code = "CANCELLED"
            try:
                answering = behaviour(request, context)
                del request  # see _forget_frames
                response = await answering
                code = "OK"
                return response
            except grpc.aio.AbortError:
                code = grpc_code_name(context.code())
                raise
            finally:
                observe(code, time.perf_counter() - started)

        return measured


def _caller(context: Any) -> dict[str, str]:
    """Say for whom the call was made, as far as its tool told (checklist HDR-01)."""
    told = request_metadata(CallMetadata(context.invocation_metadata()))
    return {
        "tool": told.tool_details.tool_name,
        "invocation": told.tool_invocation_id,
        "target": told.target_id,
        "action": told.action_id,
    }


def grpc_code_name(code: Any) -> str:
    """Return the name of *code*, which grpc.aio gives as a number or as an enum member."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")


def _forget_frames(error: BaseException) -> None:
    """Let go of what the functions that *error* passed through had in hand, some MiB of an upload for one.

    What ``abort`` raises is kept by grpc in a cycle with its context, which is there until the garbage collector comes
    by. Nothing that is large may be within its reach: neither the request nor the frames of the error before it.
    """
    seen: BaseException | None = error
    while seen is not None and seen.__traceback__ is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


async def _abort(context: Any, error: GridwrightError) -> None:
    status = trailer_status(error)
    trailers = (*context.trailing_metadata(), (DETAILS_KEY, status.SerializeToString()))
    await context.abort(status_code(error), status.message, trailers)


def _as_coroutine(handler: Handler) -> Behaviour:
    """Return the behaviour of *handler* as a coroutine function, also where it is an async generator."""
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not handler.response_streaming:
        return behaviour  # type: ignore[no-any-return]

    async def write_all(request: Any, context: Any) -> None:
        responses = behaviour(request, context)
        if hasattr(responses, "__aiter__"):
            async for response in responses:
                await context.write(response)
        else:
            await responses

    return write_all


def _rewrap(handler: Handler, behaviour: Behaviour) -> Handler:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)
