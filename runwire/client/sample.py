"""A finished run as scorers see it, for asking for a score after the fact."""

from __future__ import annotations

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.fold import RunView, Step, ToolCall
from runwire.scorer.v1 import scorer_run_requested_pb2 as pb
from runwire.values import carry_value


def sample_of(run: run_pb2.Run, view: RunView) -> pb.Sample:
    """The sample of a run from its summary and the fold of its events. The same that the agent service would send when
    the run ends."""
    return pb.Sample(
        run_id=run.run_id,
        agent_id=run.agent_id,
        agent_version=run.agent_version,
        run_state=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower(),
        input=run.input,
        output=run.output if run.HasField("output") else None,
        error_reason=run.error.reason,
        error_message=run.error.message,
        tool_calls=[_tool_call(step, call) for number, step in sorted(view.steps.items()) for call in step.tool_calls],
        steps=[_step(step) for number, step in sorted(view.steps.items()) if number > 0],
        usage=pb.SampleUsage(
            requests=run.usage.requests,
            input_tokens=run.usage.input_tokens,
            output_tokens=run.usage.output_tokens,
            tool_calls=run.usage.tool_calls,
        ),
        labels=run.labels,
        start_time=run.start_time if run.HasField("start_time") else None,
        end_time=run.end_time if run.HasField("end_time") else None,
    )


def _step(step: Step) -> pb.SampleStep:
    return pb.SampleStep(step=step.step, name=step.name, text=step.text)


def _tool_call(step: Step, call: ToolCall) -> pb.SampleToolCall:
    outcome = run_event_pb2.ToolCallOutcome.Name(call.outcome).removeprefix("TOOL_CALL_OUTCOME_").lower()
    return pb.SampleToolCall(
        tool_call_id=call.tool_call_id,
        tool_name=call.tool_name,
        arguments=carry_value(call.arguments),
        result=carry_value(call.result),
        outcome="" if outcome == "unspecified" else outcome,
        step=step.step,
    )
