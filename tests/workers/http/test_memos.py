import json
from typing import Any

import pytest

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import Done, ErrorInfo, Op, OpKind
from inngest_temporal_workers.http.memos import memo_text

EVENT = {"name": "x/y", "data": {}, "id": "01W", "ts": 5, "user": {}}


@pytest.mark.parametrize(
    ("kind", "data", "memo"),
    [
        (protocol.RUN, 1, {"data": 1}),
        (protocol.RUN, None, {"data": None}),
        (protocol.RUN, {"data": 1}, {"data": {"data": 1}}),
        (protocol.SLEEP, None, None),
        (protocol.WAIT_FOR_EVENT, EVENT, EVENT),
        (protocol.WAIT_FOR_EVENT, None, None),
        (
            protocol.WAIT_FOR_SIGNAL,
            {"signal": "s", "data": 1},
            {"data": {"signal": "s", "data": 1}},
        ),
        (protocol.WAIT_FOR_SIGNAL, None, None),
        (protocol.INVOKE, None, {"data": None}),
    ],
)
def test_memos_of_results_are_as_sdks_expect_them(kind: OpKind, data: Any, memo: Any) -> None:
    assert json.loads(memo_text(Done(Op(kind, "a", "a"), data))) == memo


@pytest.mark.parametrize(
    ("error", "memo"),
    [
        (ErrorInfo("E", "m"), {"name": "E", "message": "m"}),
        (ErrorInfo("E", "m", "s"), {"name": "E", "message": "m", "stack": "s"}),
        (ErrorInfo("E", ""), {"name": "E", "message": "E"}),
        (ErrorInfo("E", "m", cause={"a": 1}), {"name": "E", "message": "m", "cause": {"a": 1}}),
    ],
)
@pytest.mark.parametrize("kind", [protocol.RUN, protocol.INVOKE, protocol.SLEEP])
def test_memos_of_errors_are_as_sdks_expect_them(
    kind: OpKind, error: ErrorInfo, memo: dict[str, Any]
) -> None:
    """A missing stack is left out: JavaScript's SDK can't read an error whose stack is null."""
    assert json.loads(memo_text(Done(Op(kind, "a", "a"), error=error))) == {"error": memo}
