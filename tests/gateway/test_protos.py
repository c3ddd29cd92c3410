"""The protos, for whoever makes a client of them."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileOptions

from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2, scorer_service_pb2
from tests.client.processes import ROOT

PROTOS = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto" / "runwire").rglob("v1/*.proto"))
FILES = [
    each.DESCRIPTOR
    for each in (
        agent_service_pb2,
        run_event_pb2,
        run_pb2,
        scorer_run_pb2,
        scorer_run_requested_pb2,
        scorer_service_pb2,
    )
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_language_has_its_names(file: FileDescriptor) -> None:
    """Each file says where its stubs belong, in every language that asks, and all of one package say the same."""
    _, noun, version = file.package.split(".")
    options: FileOptions = file.GetOptions()
    assert options.go_package == f"runwire/{noun}/{version};{noun}{version}"
    assert (options.java_package, options.java_multiple_files) == (file.package, True)
    assert options.csharp_namespace == f"Runwire.{noun.capitalize()}.{version.upper()}"


def test_no_proto_is_forgotten() -> None:
    """The test above looks at every proto of ours."""
    assert sorted(file.name for file in FILES) == [path.as_posix() for path in PROTOS]


@pytest.mark.parametrize("path", PROTOS, ids=str)
def test_the_package_has_the_protos(path: str) -> None:
    """Beside the stubs lies the proto that they were made of; the wheel takes it from there."""
    assert (ROOT / path).read_bytes() == (ROOT / "proto" / path).read_bytes()
