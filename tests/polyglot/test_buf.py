"""A consumer generates stubs with buf, from this repository as an input."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client.processes import ROOT
from tests.servers import MISSING, program

pytestmark = pytest.mark.polyglot


def test_buf_generate(tmp_path: Path) -> None:
    """`buf generate` makes stubs of every proto, with nothing but the module itself and a local plugin."""
    if shutil.which("protoc") is None:
        pytest.skip(f"{MISSING} protoc: not on PATH")
    template = {"version": "v2", "plugins": [{"protoc_builtin": "python", "out": "gen"}]}
    (tmp_path / "buf.gen.yaml").write_text(json.dumps(template))
    command = [str(program("buf")), "generate", str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(tmp_path / "gen").as_posix() for path in (tmp_path / "gen").rglob("*_pb2.py")}
    protos = (path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto"))
    assert made == {path.as_posix().replace(".proto", "_pb2.py") for path in protos}


@pytest.mark.parametrize(
    "plugin, made",
    [
        ("java", "runwire/agent/v1/RunEvent.java"),
        ("csharp", "RunEvent.cs"),
        ("cpp", "runwire/agent/v1/run_event.pb.h"),
        ("ruby", "runwire/agent/v1/run_event_pb.rb"),
        ("php", "Runwire/Agent/V1/RunEvent.php"),
    ],
)
def test_stubs_from_the_package(plugin: str, made: str, tmp_path: Path) -> None:
    """protoc makes stubs of the protos as they lie in the package, at the place that the language wants."""
    protoc = shutil.which("protoc")
    if protoc is None:
        pytest.skip(f"{MISSING} protoc: not on PATH")
    protos = [str(path.relative_to(ROOT)) for path in (ROOT / "runwire" / "agent" / "v1").glob("*.proto")]
    command = [protoc, "-I", str(ROOT), f"--{plugin}_out={tmp_path}", *protos]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / made).is_file(), sorted(path.name for path in tmp_path.rglob("*"))
    if plugin == "csharp":
        assert "namespace Runwire.Agent.V1" in (tmp_path / made).read_text()
