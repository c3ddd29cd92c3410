"""The commands about runs, against a real agent service."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from runwire import cli
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.cli.interruption import CtrlC
from tests.cli.conftest import Runwire, on_terminal, spawn
from tests.client.processes import AgentProcess
from tests.servers import free_port

TICKS = '{"count": 3, "interval_ms": 0, "text": "tick\\n"}'


def test_start_and_watch(runwire: Runwire) -> None:
    """A run that is watched prints its text on stdout and everything else on stderr, and exits with 0."""
    result = runwire("start", "ticker", TICKS, "--watch")
    assert result.code == 0
    assert result.out == 'tick\ntick\ntick\n{\n  "count": 3\n}\n'
    assert "succeeded" in result.err.splitlines()[-1]


def test_tools_and_custom_events(runwire: Runwire) -> None:
    """Tool calls and custom events are told in lines of their own."""
    result = runwire("start", "tooled", "cursors", "--watch")
    assert result.code == 0
    assert '→ search {"query": "cursors"}' in result.err
    assert '✓ search ["a page"]' in result.err
    assert '· note {"n": 1}' in result.err
    assert result.out.startswith("looked it up\n")


def test_start_prints_the_id(runwire: Runwire) -> None:
    """Without --watch the id alone is on stdout, and a request id makes the command repeatable."""
    first = runwire("start", "ticker", TICKS, "--request-id", "once", "--label", "team=a")
    again = runwire("start", "ticker", TICKS, "--request-id", "once", "--label", "team=a")
    assert first.code == again.code == 0
    assert first.out == again.out
    assert len(first.out.split()) == 1


def test_failed_run(runwire: Runwire) -> None:
    """A run that fails exits with 1 and says why; what it said before stays on stdout."""
    result = runwire("start", "broken", "x", "--watch")
    assert result.code == 1
    assert result.out == "so far so good\n"
    assert "agent_error: no luck today" in result.err


def test_json_frames(runwire: Runwire) -> None:
    """With --json every line is a message of the contract, and the joined batches are the log."""
    result = runwire("--json", "start", "ticker", TICKS, "--watch")
    started, *frames = result.out.splitlines()
    run_id = json_format.Parse(started, agent_service_pb2.StartRunResponse()).run.run_id
    responses = [json_format.Parse(line, agent_service_pb2.WatchRunResponse()) for line in frames]
    events = [event for response in responses for event in response.batch.events]
    assert responses[-1].ended.state == run_pb2.RUN_STATE_SUCCEEDED
    listed = runwire("events", run_id, "--json").out.splitlines()
    assert [json_format.Parse(line, run_event_pb2.RunEvent()) for line in listed] == events


def test_watch_after_a_cursor(runwire: Runwire) -> None:
    """--after continues behind the frame that carried the cursor; at the end of the log only the end is left."""
    result = runwire("start", "ticker", TICKS, "--watch", "--json")
    run_id = result.lines[0]["run"]["runId"]
    cursor = result.lines[-1]["cursor"]
    rest = runwire("watch", run_id, "--after", cursor, "--json")
    assert rest.code == 0
    assert [list(line) for line in rest.lines] == [["cursor", "ended"]]
    assert runwire("watch", run_id, "--latest", "--json").lines == rest.lines


def test_runs_and_show(runwire: Runwire) -> None:
    """Runs are listed by agent, state and label, and one is shown with all that is known of it."""
    run_id = runwire("start", "ticker", TICKS, "--label", "team=blue", "--watch", "--json").lines[0]["run"]["runId"]
    listed = runwire("runs", "--agent", "ticker", "--state", "succeeded", "--label", "team=blue")
    assert listed.out.split("\t")[:3] == [run_id, "ticker", "succeeded"]
    assert runwire("runs", "--label", "team=green").out == ""
    shown = runwire("show", run_id).out
    assert "state      succeeded" in shown
    assert "labels     team=blue" in shown
    assert json_format.Parse(runwire("show", run_id, "--json").out, run_pb2.Run()).run_id == run_id


def test_events(runwire: Runwire) -> None:
    """Events come one a line, up to a limit."""
    run_id = runwire("start", "ticker", TICKS, "--watch", "--json").lines[0]["run"]["runId"]
    lines = runwire("events", run_id).out.splitlines()
    assert "run_started" in lines[0]
    assert "run_finished" in lines[-1]
    assert '"tick\\n"' in "".join(lines)
    assert runwire("events", run_id, "--limit", "2").out.splitlines() == lines[:2]


def test_cancel(runwire: Runwire) -> None:
    """A cancelled run ends as cancelled, and watching it exits with 1."""
    run_id = runwire("start", "ticker", '{"count": 1000, "interval_ms": 1000}').out.strip()
    assert runwire("cancel", run_id, "--reason", "enough").code == 0
    watched = runwire("watch", run_id)
    assert watched.code == 1
    assert "cancelled" in watched.err.splitlines()[-1]
    assert "has ended: cancelled" in runwire("cancel", run_id).out


def test_resume(runwire: Runwire) -> None:
    """A run that waits says for what, and continues with the answer."""
    run_id = runwire("start", "asker", "greeting").out.strip()
    with spawn("--agent-address", os.environ["RUNWIRE_AGENT_ADDRESS"], "watch", run_id) as watching:
        assert watching.stderr is not None
        while "waits for name" not in (line := watching.stderr.readline()):
            assert line, "the watch ended before the run asked"
        waiting = runwire("resume", run_id)
        assert waiting.out.split("\t") == ["suspend/name", "data", "name", '{"why": "greeting"}\n']
        assert runwire("resume", run_id, "--data", 'suspend/name="Ada"').code == 0
        out, err = watching.communicate(timeout=30)
    assert watching.returncode == 0
    assert out == "hello Ada\n"
    assert "resumed" in err
    assert runwire("resume", run_id, "--data", 'suspend/name="Eve"').code == 2


def test_agents(runwire: Runwire) -> None:
    """Agents are listed with what they do; --json has their schemas."""
    assert "asker\tworkflow\t\t\tAsks for a name." in runwire("agents").out
    ticker = next(line for line in runwire("agents", "--json").lines if line["agentId"] == "ticker")
    assert "count" in ticker["inputSchema"]["properties"]


@pytest.mark.parametrize(
    "given, sent",
    [
        ("plain words", "plain words"),
        ('"quoted"', "quoted"),
        ("12", 12),
        ("null", None),
        ("@FILE", {"a": 1}),
        ("-", [1, 2]),
    ],
)
def test_input(runwire: Runwire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, sent: object) -> None:
    """INPUT is JSON where it is, a file or standard input where it says so, and a string otherwise."""
    (tmp_path / "input.json").write_text('{"a": 1}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]")))
    result = runwire("start", "anything", given.replace("FILE", str(tmp_path / "input.json")), "--json")
    assert result.lines[0]["run"].get("input") == sent


def test_input_as_text(runwire: Runwire) -> None:
    """--text takes what looks like JSON as it is."""
    assert runwire("start", "anything", "{no json", "--text", "--json").lines[0]["run"]["input"] == "{no json"


def test_files_and_context(runwire: Runwire, tmp_path: Path) -> None:
    """Files and addresses are sent as parts behind the text; context is shown with the run."""
    (tmp_path / "a.png").write_bytes(b"\xff")
    more = ["--url", "https://e.org/b.mp3?x=1", "--run-context", '{"account": 17}']
    (line,) = runwire("start", "anything", "What?", "--file", str(tmp_path / "a.png"), *more, "--json").lines
    assert line["run"]["input"] == [
        "What?",
        {"type": "image", "data": "/w==", "media_type": "image/png"},
        {"type": "audio", "url": "https://e.org/b.mp3?x=1"},
    ]
    assert line["run"]["context"] == {"account": 17}


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["start", "anything", "--file", "/no/such.png"], "cannot read '/no/such.png'"),
        (["start", "anything", "--file", "/dev/null"], "nobody knows what 'null' is by its name"),
        (["start", "anything", "--run-context", "[1]"], "--run-context must be a JSON object"),
        (["start", "anything", "--run-context", "{"], "--run-context is not JSON"),
        (["start", "anything", "--setting", "temperature"], "--setting takes KEY=VALUE"),
        (["start", "anything", "--model", "huge"], "does not offer the model 'huge'"),
        (["start", "nobody", "x"], "no agent 'nobody'"),
        (["start", "ticker", '{"count": "many"}'], "input.count: "),
        (["start", "ticker", '{"count": '], "begins like JSON but is none"),
        (["start", "ticker", "NaN"], "NaN"),
        (["start", "ticker", "123456789012345678901"], "beyond 2^53"),
        (["start", "ticker", "[" * 5000 + "]" * 5000], "nested too deeply"),
        (["start", "ticker", "1" * 5000], "too many digits"),
        (["start", "ticker", "\udcff"], "cannot be sent"),
        (["show", "\udcff"], "not UTF-8"),
        (["start", "ticker", TICKS, "--timeout", "999999999999999d"], "more than a hundred years"),
        (["resume", "RUN", "--data", "x=99999999999999999999"], "the data of x cannot be sent"),
        (["resume", "RUN", "--arguments", 'x={"a": NaN}'], "the arguments of x holds NaN"),
        (["runs", "--since", "999999999999999d"], "more than a hundred years"),
        (["runs", "--since", "0001-01-01T00:00+14:00"], "is neither"),
        (["start", "ticker", "@/no/such/file"], "cannot read '/no/such/file'"),
        (["start", "ticker", TICKS, "--label", "x"], "--label takes KEY=VALUE"),
        (["start", "ticker", TICKS, "--timeout", "soon"], "'soon' is no duration"),
        (["start"], "Missing argument 'AGENT'"),
        (["watch", "nothing"], "nothing"),
        (["watch", "RUN", "--after", "rubbish"], "cursor"),
        (["watch", "RUN", "--after", "x", "--latest"], "exclude each other"),
        (["show", "nothing"], "nothing"),
        (["events", "RUN", "--after", "rubbish"], "cursor"),
        (["cancel", "nothing"], "nothing"),
        (["resume", "RUN", "--data", "suspend/x={"], "is not JSON"),
        (["resume", "RUN", "--data", "suspend/x=1"], "does not wait"),
        (["runs", "--state", "asleep"], "'asleep' is no state; states are queued, running"),
        (["runs", "--since", "yesterday"], "'yesterday' is neither"),
        (["runs", "--limit", "0"], "0 is not in the range"),
        (["--agent-address", "nonsense", "runs"], "is no address"),
        (["--agent-address", "host:99999", "runs"], "is no address"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_bad_input(runwire: Runwire, arguments: list[str], text: str) -> None:
    """Whatever the user got wrong is one line on stderr and exit code 2."""
    run_id = runwire("start", "ticker", TICKS, "--request-id", "for bad input").out.strip()
    result = runwire(*(run_id if each == "RUN" else each for each in arguments))
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("runwire: ")
    assert result.err.count("\n") == 1
    assert text.replace("RUN", run_id) in result.err


@pytest.mark.parametrize("arguments", [["runs"], ["watch", "x"], ["start", "ticker", TICKS, "--watch"], ["agents"]])
def test_unreachable(runwire: Runwire, arguments: list[str]) -> None:
    """A service that is not there is one line, with what to do, and exit code 3."""
    address = f"127.0.0.1:{free_port()}"
    result = runwire("--agent-address", address, *arguments)
    assert result.code == 3
    assert result.err.count("\n") == 1
    assert f"cannot reach the agent service at {address}" in result.err
    assert "runwire dev" in result.err


def test_option_after_the_command_wins(runwire: Runwire, agent_service: AgentProcess) -> None:
    """Addresses may stand before or behind the command's name."""
    nowhere = f"127.0.0.1:{free_port()}"
    assert runwire("--agent-address", nowhere, "agents", "--agent-address", agent_service.address).code == 0


def test_interrupted(agent_service: AgentProcess, runwire: Runwire) -> None:
    """Ctrl-C exits with 130 and prints a command that continues exactly behind what was shown."""
    address = agent_service.address
    watching = spawn(
        "--agent-address", address, "start", "ticker", '{"count": 40, "interval_ms": 50, "text": "a\\n"}', "-w"
    )
    assert watching.stdout is not None
    for _ in range(3):
        assert watching.stdout.readline() == "a\n"
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    command = err.strip().splitlines()[-1].partition("Follow it with: runwire ")[2].split()
    assert command[0] == "watch"
    rest = runwire(*command)
    assert rest.code == 0
    shown = 3 + out.count("a\n")
    assert shown + rest.out.count("a\n") == 40


def test_a_swallowed_interruption() -> None:
    """A Ctrl-C that a library swallowed, in a finaliser for instance, interrupts at the next event all the same."""
    before = signal.getsignal(signal.SIGINT)
    with CtrlC().heard() as ctrl_c:
        with ctrl_c.held_off():
            pass
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), ctrl_c.held_off():
            pass
    assert signal.getsignal(signal.SIGINT) is before


def test_reader_that_goes_away(agent_service: AgentProcess) -> None:
    """When whoever reads the output has gone, the command ends without a word."""
    arguments = ["start", "ticker", '{"count": 20000, "interval_ms": 0, "text": "line\\n"}', "-w"]
    with spawn("--agent-address", agent_service.address, *arguments) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stdout.readline()
        watching.stdout.close()
        assert "Traceback" not in watching.stderr.read()
        assert watching.wait(30) == 1


def test_on_a_terminal(agent_service: AgentProcess) -> None:
    """On a terminal there are colours and a status line, and the text is all there."""
    code, text = on_terminal("--agent-address", agent_service.address, "start", "tooled", "cursors", "-w")
    assert code == 0
    assert "looked it up" in text
    assert "\x1b[32m✓" in text
    assert "\x1b[32msucceeded" in text


def test_interrupted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C while the command's own modules are imported is exit code 130 too, and no traceback."""

    class Interrupting:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "runwire.cli.app", Interrupting())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


def test_output_that_cannot_be_shown(agent_service: AgentProcess) -> None:
    """An output of another encoding is one line that says what to do."""
    arguments = ["start", "ticker", '{"count": 1, "text": "é"}', "-w"]
    with spawn("--agent-address", agent_service.address, *arguments, env={"PYTHONIOENCODING": "ascii"}) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "PYTHONUTF8" in err
    assert "Traceback" not in err


def test_module_and_version() -> None:
    """`python -m runwire.cli --version` says the version."""
    command = [sys.executable, "-m", "runwire.cli", "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.startswith("runwire ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(runwire: Runwire, shell: str) -> None:
    """A completion script for each shell, and the completion it asks for."""
    assert "_RUNWIRE_COMPLETE" in runwire("completion", shell).out


def test_completion_works() -> None:
    """The shell's question is answered with the commands that fit."""
    asked = {"_RUNWIRE_COMPLETE": "bash_complete", "COMP_WORDS": "runwire sco", "COMP_CWORD": "1"}
    with spawn(env=asked) as process:
        out, _ = process.communicate(timeout=30)
    assert out.split() == ["plain,score", "plain,scorers", "plain,scores"]


def test_help_of_every_command(runwire: Runwire) -> None:
    """Every command explains itself."""
    commands = [line.split()[0] for line in runwire("--help").out.partition("Commands:\n")[2].splitlines() if line]
    assert len(commands) >= 17
    for command in commands:
        assert runwire(command, "--help").code == 0


def test_retry(runwire: Runwire) -> None:
    """A run that failed continues in a new one; one that succeeded has nothing to continue from."""
    result = runwire("start", "broken", "x", "--watch")
    run_id = result.err.split()[1]
    again = runwire("retry", run_id, "--watch")
    assert again.code == 1
    assert again.err.split()[1] != run_id
    done = runwire("start", "ticker", TICKS, "--watch")
    refused = runwire("retry", done.err.split()[1])
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
