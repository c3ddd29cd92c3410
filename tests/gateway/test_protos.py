"""The protos, for whoever makes a client of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileOptions

from tests.client.processes import ROOT

PROTOS = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto" / "runwire").rglob("v1/*.proto"))


@pytest.mark.parametrize("path", PROTOS, ids=str)
def test_every_language_has_its_names(path: Path) -> None:
    """Each file says where its stubs belong, in every language that asks, and all of one package say the same."""
    stubs = importlib.import_module(".".join([*path.parent.parts, f"{path.stem}_pb2"]))
    package = stubs.DESCRIPTOR.package
    _, noun, version = package.split(".")
    options: FileOptions = stubs.DESCRIPTOR.GetOptions()
    assert options.go_package == f"runwire/{noun}/{version};{noun}{version}"
    assert (options.java_package, options.java_multiple_files) == (package, True)
    assert options.csharp_namespace == f"Runwire.{noun.capitalize()}.{version.upper()}"


@pytest.mark.parametrize("path", PROTOS, ids=str)
def test_the_package_has_the_protos(path: Path) -> None:
    """Beside the stubs lies a link to their proto: the wheel takes it from there."""
    assert (ROOT / path).read_bytes() == (ROOT / "proto" / path).read_bytes()
