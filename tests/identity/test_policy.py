"""The rule of every RPC."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from runwire.agent.v1 import agent_service_pb2
from runwire.errors import ConfigurationError, ScopeMissing
from runwire.identity import policy
from runwire.identity.access import Access
from runwire.identity.principal import ADMIN, SCOPES, Principal, caller
from runwire.keda import externalscaler_pb2
from runwire.rpc import serve
from runwire.scorer.v1 import scorer_service_pb2


def methods() -> Iterator[MethodDescriptor]:
    """Of all services that our servers have."""
    for file in (agent_service_pb2, scorer_service_pb2, externalscaler_pb2, health_pb2, reflection_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_every_rpc_has_a_rule() -> None:
    """No RPC is without a line in the table, and no line without an RPC."""
    assert {path(method) for method in methods()} == set(policy.RULES)


def test_only_health_and_reflection_are_for_everybody() -> None:
    """Whatever is ours asks for a scope that exists."""
    for method in methods():
        scope = policy.RULES[path(method)]
        ours = not method.full_name.startswith("grpc.")
        assert (scope in SCOPES) == ours, method.full_name


@pytest.mark.parametrize("method", [path(each) for each in methods() if not each.full_name.startswith("grpc.")])
def test_a_scope_is_needed_and_enough(method: str) -> None:
    """Who has the scope of an RPC, or `admin`, may call it; who has all the others may not."""
    scope = policy.RULES[method]
    policy.check(Principal("x", "acme", frozenset({scope})), method)
    policy.check(Principal("x", "acme", frozenset({ADMIN})), method)
    others = frozenset(SCOPES) - {scope, ADMIN}
    with pytest.raises(ScopeMissing) as caught:
        policy.check(Principal("x", "acme", others), method)
    assert caught.value.metadata == {"scope": scope}


def test_every_change_is_written_down() -> None:
    """The audit log is of each RPC that the contract does not call free of side effects, and of no other."""
    free = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    ours = [each for each in methods() if each.full_name.startswith("runwire.")]
    assert {path(each) for each in ours if each.GetOptions().idempotency_level != free} == policy.CHANGES


def test_what_has_no_rule_is_for_admins() -> None:
    """An RPC that was forgotten in the table is closed, not open."""
    with pytest.raises(ScopeMissing):
        policy.check(Principal("x", "acme", frozenset(SCOPES) - {ADMIN}), "/runwire.agent.v1.AgentService/New")


def test_nobody_calls_outside_of_a_call() -> None:
    """There is no principal by default that somebody could be taken for."""
    with pytest.raises(LookupError):
        caller()


@pytest.mark.parametrize("tenant", ["", "a/b", ".hidden", "a b", "ä", "x" * 65, "a\0b", "a\n", "runs/x"])
def test_no_tenant_is_a_part_of_another(tenant: str) -> None:
    """A tenant's name cannot hold what separates the parts of topics and lists."""
    with pytest.raises(ValueError, match="is no tenant"):
        Principal("x", tenant, frozenset())


@pytest.mark.parametrize("subject", ["", "x" * 257, "a\nb", "a\0b", "\x1b[0m"])
def test_no_subject_looks_like_more_than_one(subject: str) -> None:
    """A subject is printable, as it stands in logs and lists."""
    with pytest.raises(ValueError, match="a subject has"):
        Principal(subject, "acme", frozenset())


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
async def test_the_world_is_not_let_in_by_accident(listen: str) -> None:
    """Without authentication a service does not listen beyond this machine."""
    with pytest.raises(ConfigurationError, match="--insecure"):
        async with serve(listen, lambda _: None, ["runwire.agent.v1.AgentService"]):
            pass


async def test_insecure_is_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """`insecure` opens it, with one line of warning."""
    access = Access(insecure=True)
    async with serve("0.0.0.0:0", lambda _: None, ["runwire.agent.v1.AgentService"], access=access):
        pass
    assert [record.levelname for record in caplog.records if record.name == "runwire.identity"] == ["WARNING"]


async def test_reflection_is_switched_off() -> None:
    """Without reflection nobody is told what is served; health is as before."""
    async with (
        serve("127.0.0.1:0", lambda _: None, [], access=Access(reflection=False)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([b""]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
