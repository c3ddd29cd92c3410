"""What every Runwire server has: options, errors as statuses, health, reflection, drain.

Handlers raise the errors of `runwire.errors`; this module is the only one that turns them into statuses. An error
that is not one of ours becomes INTERNAL with a fixed text, and goes to the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from runwire import errors, listening, requests, wakeups
from runwire.calls import Call, Calls
from runwire.errors import ConfigurationError, InvalidRequest, RequestMalformed, RunwireError, Unavailable
from runwire.identity import audit, policy
from runwire.identity.access import Access
from runwire.identity.authenticator import Authenticator
from runwire.identity.limits import Limits
from runwire.identity.principal import ANONYMOUS, Principal, acting, caller
from runwire.identity.server_certificates import Identity, ServerCertificates
from runwire.logs import Sparing
from runwire.outflow import Outflow
from runwire.times import duration

DOMAIN: Final = "runwire.dev"

VERSION_KEY: Final = "runwire-version"
"""Trailing metadata of every unary call that succeeds: the version of the service."""

TIME_KEY: Final = "runwire-time"
"""The same: its clock, in seconds since the Unix epoch."""

LIVENESS: Final = "runwire.liveness"
"""What health checks ask for that restart a process: SERVING while its event loop turns, also while it drains or its
store is away, when a restart would mend nothing."""

STATUS_CODES: Final[tuple[tuple[type[RunwireError], int], ...]] = (
    (errors.CursorMismatch, code_pb2.INVALID_ARGUMENT),
    (errors.InvalidRequest, code_pb2.INVALID_ARGUMENT),
    (errors.CursorError, code_pb2.OUT_OF_RANGE),
    (errors.EventsLost, code_pb2.DATA_LOSS),
    (errors.Unauthenticated, code_pb2.UNAUTHENTICATED),
    (errors.PermissionDenied, code_pb2.PERMISSION_DENIED),
    (errors.NotFound, code_pb2.NOT_FOUND),
    (errors.AlreadyExists, code_pb2.ALREADY_EXISTS),
    (errors.PreconditionFailed, code_pb2.FAILED_PRECONDITION),
    (errors.SlowConsumer, code_pb2.RESOURCE_EXHAUSTED),
    (errors.TooManyStreams, code_pb2.RESOURCE_EXHAUSTED),
    (errors.TooManyRequests, code_pb2.RESOURCE_EXHAUSTED),
    (errors.RateExceeded, code_pb2.RESOURCE_EXHAUSTED),
    (errors.QueueFull, code_pb2.RESOURCE_EXHAUSTED),
    (errors.TooManyMessages, code_pb2.RESOURCE_EXHAUSTED),
    (errors.Unavailable, code_pb2.UNAVAILABLE),
    (errors.CommitRefused, code_pb2.ABORTED),
)
"""First match wins."""

_MAX_MESSAGE_BYTES: Final = 1024
_MAX_VIOLATIONS_BYTES: Final = 1024
_MAX_METADATA_BYTES: Final = 256
"""A client refuses a status of more than 8 KiB at random, of 16 KiB always, and reports that instead of the error. The
message goes out twice, once with three bytes for each that is not ASCII."""

_OPTIONS: Final = (
    # Clients may ping an idle stream every 10 s; without this gRPC cuts them off as abusive.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # After an outage thousands of clients come back at once. Beyond these gRPC drops new calls at random (CANCELLED).
    ("grpc.server.max_pending_requests", 50_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.server_max_unrequested_time_in_server", 120),
    # With it gRPC receives MiB of each call ahead, also of those that wait for their place.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_SHARING: Final = {
    # Two servers on one port would each get a share of the connections: a port in use must be an error.
    False: (("grpc.so_reuseport", 0),),
    True: (("grpc.so_reuseport", 1),),
}

logger = logging.getLogger("runwire.rpc")
_faults: Final = Sparing(logger)
_FAULT: Final = RunwireError("internal error; the server's log has the details")

try:
    _VERSION = version("runwire")
except PackageNotFoundError:  # from a source tree that was never installed
    _VERSION = "unknown"


def to_status(error: RunwireError) -> status_pb2.Status:
    """The status of an error, with ErrorInfo, and BadRequest or RetryInfo where they apply."""
    code = next((code for kind, code in STATUS_CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    message = _cut(error.message, _MAX_MESSAGE_BYTES)
    metadata = {key: _cut(value, _MAX_METADATA_BYTES) for key, value in error.metadata.items()}
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidRequest):
        bad = _bad_request(error.violations)
        details.append(bad)
        if (shown := len(bad.field_violations)) < len(error.violations):
            message += f" ({shown} of {len(error.violations)} violations shown)"
    if code == code_pb2.RESOURCE_EXHAUSTED:
        exceeded = error_details_pb2.QuotaFailure.Violation(subject=error.reason.lower(), description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[exceeded]))
    if isinstance(error, Unavailable):
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_delay_seconds)))
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _bad_request(violations: Mapping[str, str]) -> error_details_pb2.BadRequest:
    """The first violations, as many as fit."""
    bad = error_details_pb2.BadRequest()
    for field, problem in violations.items():
        bad.field_violations.add(
            field=_cut(field, _MAX_MESSAGE_BYTES // 2), description=_cut(problem, _MAX_MESSAGE_BYTES // 2)
        )
        if bad.ByteSize() > _MAX_VIOLATIONS_BYTES:
            break
    return bad


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= most_bytes else encoded[:most_bytes].decode(errors="ignore") + " ..."


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a handler raises into a status with details, and lets streams flow as `runwire.outflow` has it."""

    def __init__(self, outflow: Outflow) -> None:
        self._outflow = outflow

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler: Any = await continuation(handler_call_details)
        if handler is not None and handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guard_unary(handler.unary_unary, handler.request_deserializer, handler_call_details.method),
                None,
                _pass_bytes(handler.response_serializer),
            )
        if handler is not None and handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(
                    handler.unary_stream,
                    handler.request_deserializer,
                    handler_call_details.method,
                    None if handler_call_details.method.startswith("/grpc.") else self._outflow,
                    _pass_bytes(handler.response_serializer),
                ),
                None,
                _pass_bytes(handler.response_serializer),
            )
        if handler is not None and handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                _guard_both(handler.stream_stream, handler.request_deserializer, handler_call_details.method),
                None,
                _pass_bytes(handler.response_serializer),
            )
        return cast("Handler | None", handler)


class IdentityInterceptor(grpc.aio.ServerInterceptor):
    """Makes the principal of each call, before anything of it is received, and refuses what it may not do."""

    def __init__(self, authenticator: Authenticator, limits: Limits) -> None:
        self._authenticator = authenticator
        self._limits = limits

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if policy.is_public(method):
            return await continuation(handler_call_details)
        if method not in policy.RULES and await continuation(handler_call_details) is None:
            return None  # UNIMPLEMENTED
        try:
            principal = await self._authenticator.by_token(handler_call_details.invocation_metadata or ())
            if principal is not None:
                policy.check(principal, method)
        except RunwireError as error:
            # As a stream: what is refused here is not even received.
            return grpc.stream_stream_rpc_method_handler(_refusing(error, method))
        return self._identified(await continuation(handler_call_details), principal, method)

    def _identified(self, handler: Any, principal: Principal | None, method: str) -> Handler | None:
        """`handler`, which sees the principal."""
        for kind, make in _KINDS.items():
            if handler is not None and (behaviour := getattr(handler, kind)):
                acting = self._acting(behaviour, principal, method)
                return make(acting, handler.request_deserializer, handler.response_serializer)
        return None

    def _acting(self, behaviour: Any, principal: Principal | None, method: str) -> Any:
        async def acting_for(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                who = principal or self._by_certificate(context, method)
                with self._limits.admitted(who, method), acting(who):
                    working = behaviour(request, context)
                    del request  # see _let_go
                    return await working
            except RunwireError as error:
                await _abort(error, method, context)

        return acting_for

    def _by_certificate(self, context: grpc.aio.ServicerContext[Any, Any], method: str) -> Principal:
        # gRPC tells of the peer only once the call is being handled.
        principal = self._authenticator.by_certificate(context.auth_context())
        policy.check(principal, method)
        return principal


def _refusing(error: RunwireError, method: str) -> Any:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await _abort(error, method, context)

    return refuse


_KINDS: Final = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


class CallsInterceptor(grpc.aio.ServerInterceptor):
    """Lets so many unary calls be worked on at once; health checks and streams are none of them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler.unary_unary or handler_call_details.method.startswith("/grpc.health."):
            return cast("Handler | None", handler)
        # As if it had a stream of requests: on the wire that is the same, and here gRPC gives us the call, with the
        # name of its connection, before it receives the request.
        return grpc.stream_unary_rpc_method_handler(
            self._counted(handler.unary_unary, handler.response_serializer, handler_call_details.method), None, None
        )

    def _counted(self, behaviour: Any, serialize: Callable[[Any], bytes], method: str) -> Any:
        async def counted(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                call = await self._calls.enter(context.peer(), _who())
                data = await call.receive(context.read)
                if data is grpc.aio.EOF:
                    call.close()
                    raise RequestMalformed("the call has no request", "request", "is missing")
            except RunwireError as error:
                await _abort(error, method, context)
            with call.holding(len(data)):
                working = behaviour(data, context)
                del data  # see _let_go
                response = serialize(await working)
                context.add_done_callback(_closing(call))
                call.send(len(response))
                return response

        return counted


def _who() -> tuple[str, str] | None:
    """Names the caller, where that is known."""
    try:
        principal = caller()
    except LookupError:  # what everybody may call
        return None
    return None if principal is ANONYMOUS else (principal.tenant, principal.subject)


def _pass_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Handlers may answer with bytes that are serialised already: events leave as they were stored."""
    return lambda response: response if isinstance(response, bytes) else serialize(response)


Parse: TypeAlias = "Callable[[bytes], Any] | None"


def _guard_unary(behaviour: Any, parse: Parse, method: str) -> Any:
    # The request comes as bytes: what does not parse is an error of the caller's, with a status that says so.
    async def guarded(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        entry: audit.Entry | None = None
        try:
            reading = requests.read(parse, data)
            del data  # also where it is refused: gRPC keeps this frame for a while, with the abortion of the call
            request = await reading
            entry = audit.entry(method, request)
            working = behaviour(request, context)
            del request
            response = await working
            if entry is not None:
                entry.done(response)
            # For `runwire doctor`: which code answers, and by which clock.
            context.set_trailing_metadata(((VERSION_KEY, _VERSION), (TIME_KEY, f"{time.time():.6f}")))
            return response
        except Exception as error:
            if entry is not None:
                entry.failed(error)
            await _abort(error, method, context)

    return guarded


def _guard_stream(
    behaviour: Any, parse: Parse, method: str, outflow: Outflow | None, serialize: Callable[[Any], bytes]
) -> Any:
    async def guarded(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            reading = requests.read(parse, data)
            del data  # also where it is refused: gRPC keeps this frame for a while, with the abortion of the call
            working = behaviour(await reading, context)
            if outflow is not None and hasattr(working, "__aiter__"):
                stream = outflow.stream(context)
                await stream.open()
                async with aclosing(working):  # what it holds is given up with its call, and not when it is collected
                    async for response in working:
                        await stream.write(serialize(response))
            else:
                await _answer(working, context)
        except Exception as error:
            await _abort(error, method, context)

    return guarded


def _guard_both(behaviour: Any, parse: Parse, method: str) -> Any:
    async def guarded(given: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async def read() -> AsyncIterator[Any]:
            async for data in given:
                yield await requests.read(parse, data)

        try:
            await _answer(behaviour(read(), context), context)
        except Exception as error:
            await _abort(error, method, context)

    return guarded


async def _answer(result: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    if hasattr(result, "__aiter__"):
        async for response in result:
            await context.write(response)
    else:
        await result


async def _abort(error: Exception, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if context.done() or _is_over(error):
        # There is nobody to tell. gRPC takes this for the end of the call, and any other error for a fault that it
        # writes into the log, once for each client that leaves.
        raise asyncio.CancelledError
    if not isinstance(error, RunwireError):
        _faults.error(method, "%s failed", method, exc_info=error)
    status = rpc_status.to_status(to_status(error if isinstance(error, RunwireError) else _FAULT))
    _let_go(error)
    try:
        await context.abort_with_status(status)
    except grpc.aio.BaseError as ending:
        if not _is_over(ending):
            raise
        raise asyncio.CancelledError from None


def _is_over(error: Exception) -> bool:
    """Whether gRPC raised it because there is nobody to tell any more: the client left, or the server has stopped."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError)


def _let_go(error: BaseException | None) -> None:
    """Takes from an error what its traceback holds. gRPC keeps the abortion of a call, and with it this error, until
    the garbage collector comes: a few hundred refused requests would be GiB."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class _ClientsThatLeft(logging.Filter):
    """Keeps out of the log what gRPC says, with a traceback, of an answer whose client left while it was sent: that is
    no fault, and one line for each client that leaves. Where a handler of ours writes, `_abort` sees to it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, Exception) and _is_over(error))


_clients_that_left: Final = _ClientsThatLeft()


def _closing(call: Call) -> Any:
    return lambda *_: call.close()


class Server:
    """A server that listens. Made by `serve`."""

    def __init__(
        self, server: grpc.aio.Server, address: str, health: health_aio.HealthServicer, services: Sequence[str]
    ) -> None:
        self._server = server
        self._health = health
        self._services = services
        self.address = address
        """HOST:PORT it listens on, with the port that was picked for port 0."""

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told, for the server as a whole and for each of its services."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, state)

    async def set_detail(self, name: str, well: bool) -> None:
        """What a health check of this name is told, whatever the others are: it takes no traffic away."""
        state = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(name, state)

    async def stop(self, grace_seconds: float) -> None:
        """Takes no more calls, waits for those under way, and cuts them off after the grace."""
        await self._server.stop(grace_seconds)


@asynccontextmanager
async def serve(
    listen: str,
    register: Callable[[grpc.aio.Server], None],
    services: Sequence[str],
    *,
    grace_seconds: float = 5.0,
    calls: Calls | None = None,
    outflow: Outflow | None = None,
    access: Access | None = None,
    shared_port: bool = False,
) -> AsyncIterator[Server]:
    """Listens on `listen` (HOST:PORT, port 0 picks a free one) until the block is left.

    `register` adds the servicers, named in `services`. Health and reflection are added here. Health says NOT_SERVING
    until `set_serving(True)`. `calls` and `outflow` bound what it works on and sends; by default as these have it.
    `access`: who may call; without it everybody, on this machine. `shared_port`: other processes of ours listen there
    too, and a supervisor keeps the port for them. Raises ConfigurationError for an address that is
    wrong, in use, or open to the world.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_clients_that_left)
    access = access or Access()
    listening.split(listen)
    if services:
        access.check(listen)
    interceptors = [
        IdentityInterceptor(access.authenticator, Limits(access.most)),
        CallsInterceptor(calls or Calls()),
        ErrorInterceptor(outflow or Outflow()),
    ]
    with wakeups.bundled(asyncio.get_running_loop()):
        server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS + _SHARING[shared_port])
    health = health_aio.HealthServicer()
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if access.reflection:
        names = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    running = Server(server, _bind(server, listen, access.certificates, shared_port), health, services)
    await running.set_serving(False)
    await health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    try:
        yield running
    finally:
        # Also when this task is cancelled: a server left running would keep its port.
        await asyncio.shield(server.stop(grace_seconds))


def _bind(server: grpc.aio.Server, listen: str, certificates: ServerCertificates | None, shared_port: bool) -> str:
    host, port = listening.split(listen)
    try:
        if not shared_port:
            listening.probe(host, port)  # gRPC would say on stderr, too, in its own words, that nobody can listen
        if certificates is None:
            bound = server.add_insecure_port(listen)
        else:
            bound = server.add_secure_port(listen, _credentials(certificates))
    except (OSError, RuntimeError, ValueError):  # the last: no name of a host
        bound = 0
    if not bound:
        raise ConfigurationError(f"cannot listen on {listen}: {listening.IN_USE}")
    return f"{host}:{bound}"


def _credentials(certificates: ServerCertificates) -> grpc.ServerCredentials:
    """TLS 1.2 or newer, with the certificate that is in force when a connection is made; open ones stay as they are."""
    present = certificates.get()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal present
        found = certificates.get()
        if found is present:
            return None
        present = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(present),
        changed,  # type: ignore[arg-type] # None is "as before", which the stubs do not know
        certificates.asks_clients,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], identity.client_ca)
