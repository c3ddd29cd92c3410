"""What is kept of a score: anything that an author can say of it, in a form that every client reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.scorer.v1 import scorer_run_pb2 as pb
from scorer_service import Judgement, Pipeline, Sample, Score, run_scorer, scorer
from scorer_service.answers.messages import scorer_run
from scorer_service.answers.queries import Found
from scorer_service.execution.outcomes import CUT, MAX_METADATA_BYTES, record_of
from scorer_service.results.records import State
from scorer_service.scoring import BadScore, evaluate


@scorer(id="any", version="1")
async def any_scorer(sample: Sample) -> Score:
    return Score(1)


class Grade(Enum):
    GOOD = "good"


@dataclass
class Detail:
    name: str


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.just(10**400)
    | st.just(Grade.GOOD)
    | st.just(Detail("x"))
    | st.just(Decimal("0.1"))
    | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)) | st.integers(), inner),
    max_leaves=20,
)


def row(**fields: Any) -> Any:
    """A row of scorer_runs as it is read."""
    record = dict.fromkeys(("due_time", "end_time", "judgement", "error_reason", "error_class", "error_message"))
    record |= dict.fromkeys(("run_id", "agent_id", "scorer_name", "traceparent", "tracestate", "worker"), "")
    record |= dict.fromkeys(("requested_by", "redriven_by", "cancelled_by"), "")
    record |= {"scorer_run_id": "id", "scorer_id": "any", "scorer_version": "1", "state": State.SUCCEEDED}
    record |= {"deliveries": 1, "create_time": 1.0, "rate": 1.0, "labels": "{}", "options": "{}", "priority": 1}
    record |= {"redrives": 0, "waits": 0, "score_value": 1.0, "score_label": "", "score_reason": ""}
    record |= {"score_metadata": "{}", "score_direction": 1}
    return SimpleNamespace(**(record | fields))


@given(label=anything, reason=anything, metadata=anything)
def test_whatever_is_said_of_a_score_is_kept(label: Any, reason: Any, metadata: Any) -> None:
    """Label, reason and metadata of any kind are stored within their bounds, as text that a database takes, and stand
    in the message as they are stored."""
    record = record_of(Score(0.5, label, reason, metadata), any_scorer)
    assert len(record.label) <= 255
    assert "\0" not in record.label + record.reason + record.metadata
    (record.label + record.reason + record.metadata).encode()
    assert len(record.metadata.encode()) <= MAX_METADATA_BYTES
    line = row(score_label=record.label, score_reason=record.reason, score_metadata=record.metadata)
    message = scorer_run(Found(line, ()))
    assert (message.score.label, message.score.reason, list(message.omitted)) == (record.label, record.reason, [])
    assert pb.ScorerRun.FromString(message.SerializeToString()) == message


@pytest.mark.parametrize(
    "given, kept", [(None, ""), (Grade.GOOD, "good"), (True, "true"), (5, "5"), (b"x", "x"), (["a"], '["a"]')]
)
async def test_texts_that_are_none(given: Any, kept: str) -> None:
    """A label and a reason that are no text are taken alike by `run_scorer` and by the service."""

    @scorer(id="says", version="1")
    async def says(sample: Sample) -> Score:
        return Score(1, given, given)

    score = await run_scorer(says, Sample())
    record = record_of(score, says)
    assert (score.label, score.reason) == (record.label, record.reason) == (kept, kept)


def test_large_metadata_is_cut_with_a_mark() -> None:
    """What fits of it is kept, key by key, and how many keys do not is said."""
    metadata = {f"key-{number}": "x" * 1000 for number in range(100)} | {"small": 1}
    kept = json.loads(record_of(Score(1, metadata=metadata), any_scorer).metadata)
    assert kept[CUT].startswith(f"{len(metadata) - len(kept) + 1} more, left out")
    assert kept["key-0"] == "x" * 1000
    assert len(kept) > 60


class Array:
    """As arrays of numbers are: nobody can say whether one is true."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> list[float]:
        return list(self.numbers)


class Lying(dict[str, Any]):
    """A mapping that is empty, or breaks off, when it is gone through."""

    def __init__(self, items: list[tuple[str, Any]], length: int) -> None:
        super().__init__(items)
        self.given, self.length = items, length

    def __len__(self) -> int:
        if self.length < 0:
            raise ValueError("no length")
        return self.length

    def items(self) -> Any:
        yield from self.given
        raise RuntimeError("broken off")


@pytest.mark.parametrize("wrapped", [False, True])
def test_metadata_that_has_no_truth_is_carried(wrapped: bool) -> None:
    """Arrays, by themselves or inside, stand as lists; an empty one too."""
    array: Any = {"a": Array(1, 2.5)} if wrapped else Array(1, 2.5)
    text: Any = Array(3)
    record = record_of(Score(1, text, text, array), any_scorer)
    assert json.loads(record.metadata) == {"a" if wrapped else "value": [1, 2.5]}
    assert (record.label, record.reason) == ("[3]", "[3]")


@pytest.mark.parametrize(
    "metadata, mark",
    [
        ({"long": "x" * 100_000, "small": 1}, "cut"),
        ({f"key-{number}": "x" * 30_000 for number in range(4)}, "cut"),
        ({f"{number}": number for number in range(20_000)}, "19000 more"),
        ({"k" * 100_000: 1, "small": 1}, "1 more"),
        ({1: "x" * 40_000, "1": "y" * 20_000, "z": "z" * 40_000}, "cut"),
        (Lying([("small", 1)], 7), "6 more"),
        (Lying([("small", 1)], -1), "some more"),
        ({CUT: "x" * 1000, "long": "x" * 100_000}, "cut"),
    ],
    ids=["long", "many", "small", "name", "same", "broken", "endless", "mark"],
)
def test_the_mark_tells_what_is_missing(metadata: dict[Any, Any], mark: str) -> None:
    """A value that is too long is cut where it stands; keys that are missing are counted as far as one can."""
    kept = json.loads(record_of(Score(1, metadata=metadata), any_scorer).metadata)
    assert kept[CUT].startswith(mark), kept[CUT]
    names = [str(key) for key in metadata]
    missing = [name for name in names if name not in kept]
    if mark == "cut":
        assert missing == []
    if "small" in metadata:
        assert kept["small"] == 1


async def test_a_step_that_is_no_json_is_done_again() -> None:
    """Its result goes to the later steps; it is not kept, and the attempt does not fail for it."""
    told: list[str] = []

    async def analyze(sample: Sample) -> Any:
        return Array(1)

    async def score(sample: Sample, analysis: Any) -> Score:
        return Score(analysis.numbers[0], metadata=analysis)

    done = await evaluate(
        Pipeline("odd", "1", analyze=analyze, score=score), Sample(), on_step=lambda name, _: told.append(name)
    )
    assert (done.value, told) == (1.0, [])


def test_a_judgement_that_is_none_costs_no_score() -> None:
    """Odd numbers in it are taken for 0 or for not known."""
    judged = Judgement(model=None, input_tokens=-5, output_tokens=float("nan"), cost_usd=float("inf"))  # type: ignore[arg-type]
    kept = json.loads(record_of(Score(1, judgement=judged), any_scorer).judgement or "")
    assert kept == {"model": "", "prompt_version": "", "input_tokens": 0, "output_tokens": 0, "cost_usd": None}
    assert record_of(Score(1, judgement="me"), any_scorer).judgement is None  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, None, "1", b"1", [], object()])
def test_what_is_no_number_is_no_score(value: Any) -> None:
    """Only this is refused."""
    with pytest.raises(BadScore, match="finite number"):
        Score(value)


@pytest.mark.parametrize("value", [True, Decimal("1.0"), 1])
def test_any_number_is_a_score(value: Any) -> None:
    """Numbers of other kinds are taken by their value."""
    assert Score(value).value == 1.0


@pytest.mark.parametrize(
    "field, text, name",
    [
        ("score_metadata", '{"n": 1e999}', ""),
        ("score_metadata", "{", "score.metadata"),
        ("labels", "[]", "labels"),
        ("options", "\0", "options"),
        ("judgement", '{"model": 7}', "score.judgement"),
    ],
)
def test_a_damaged_row_is_shown_without_what_is_damaged(field: str, text: str, name: str) -> None:
    """A row that an older version stored, or that is damaged, fails itself: what can be shown is, and what is left out
    is named."""
    message = scorer_run(Found(row(**{field: text}), ()))
    assert list(message.omitted) == ([name] if name else [])
    assert message.score.value == 1.0
    message.SerializeToString()


def test_a_damaged_sample_is_left_out() -> None:
    """The rest of the scorer run is shown."""
    message = scorer_run(Found(row(), (), sample=b"\xff"))
    assert list(message.omitted) == ["sample"]
