"""The cost of expressions: `python -m benchmarks.expressions` prints medians in microseconds.

For comparison, the library alone compiles and evaluates the same trigger; for a missing key it has
an error, not Inngest's answer.

The second table shows why the evaluator is our own: 10,000 waits in one mailbox must be checked in
a second, half of what a workflow task may compute. The library is given both events whole; if it
gets only what the expression reads, the first line takes a sixth of the time. Ours counts its work,
and a mailbox ends its workflow task at `MAX_TASK_WORK`.
"""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from inngest_temporal.expressions import compile_expression, reduce_event, split_condition, value_at

TRIGGER = "event.data.plan == 'enterprise' && event.data.amount > 10.0"
WAIT = "event.data.orderId == async.data.orderId && async.data.amount > event.data.amount"
EVENT: dict[str, Any] = {
    "id": "01JDC5ZJ5Y4S1V2J4Z9W0Q8N7M",
    "name": "shop/order.created",
    "ts": 1_700_000_000_000,
    "user": {"email": "a@b.co", "id": "u-9"},
    "data": {
        "orderId": "o-1",
        "plan": "enterprise",
        "amount": 12.5,
        "currency": "EUR",
        "tags": ["new", "eu"],
        "items": [{"sku": f"sku-{n}", "qty": n, "price": 9.99} for n in range(10)],
        "address": {"street": "1 Main St", "city": "Ghent", "country": "BE"},
    },
}
WAITS = [
    "event.data.orderId == async.data.orderId && async.data.amount > 10",
    r"async.user.email.matches('^[^@\\s]{1,64}@[a-z0-9.-]{1,255}$')",
    r"async.data.address.city.matches('^[\\pL ]{1,50}$')",
    "async.data.items.exists(i, i.sku == event.data.sku && i.qty > 5)",
    "async.data.orderId in event.data.orders",
    "async.data.items.all(i, async.data.items.all(j, i.sku != j.sku || i.qty == j.qty))",
]
TRIGGERING = {"data": {"orderId": "o-1", "sku": "sku-9", "orders": [f"o-{n}" for n in range(1000)]}}
CANDIDATE = {**EVENT, "name": "shop/payment.success", "data": {**EVENT["data"], "amount": 13}}


def median_us(call: Callable[[], object], rounds: int = 5_000) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - begun)
    return statistics.median(times) / 1_000


def main() -> None:
    library = import_module("cel_expr_python.cel").NewEnv()
    raw = library.compile(TRIGGER, disable_check=True)
    trigger = compile_expression(TRIGGER)
    wait = split_condition(WAIT, EVENT)
    assert wait.rest is not None
    rest = compile_expression(wait.rest)
    assert trigger.matches(EVENT)
    assert raw.eval(data={"event": EVENT}).value() is True
    assert rest.matches(wait.event, CANDIDATE)
    macro = compile_expression("event.data.items.exists(i, i.sku == 'sku-9' && i.qty > 5)")
    pattern = compile_expression("event.user.email.matches('^[^@]+@b[.]co$')")
    compile_afresh = compile_expression.__wrapped__

    rows: list[tuple[str, Callable[[], object]]] = [
        ("compile a trigger", lambda: compile_afresh(TRIGGER)),
        ("compile a trigger (cached)", lambda: compile_expression(TRIGGER)),
        ("compile a trigger, library alone", lambda: library.compile(TRIGGER, disable_check=True)),
        ("trigger matches", lambda: trigger.matches(EVENT)),
        ("trigger evaluates", lambda: trigger.evaluate(EVENT)),
        ("trigger evaluates, library alone", lambda: raw.eval(data={"event": EVENT}).value()),
        ("exists() over 10 items", lambda: macro.matches(EVENT)),
        ("matches() a pattern", lambda: pattern.matches(EVENT)),
        ("split a wait's condition", lambda: split_condition(WAIT, EVENT)),
        ("reduce the trigger", lambda: reduce_event(WAIT, EVENT)),
        ("value at a path", lambda: value_at(CANDIDATE, wait.path)),
        ("match in the mailbox", lambda: rest.matches(wait.event, CANDIDATE)),
    ]
    for name, call in rows:
        print(f"{name:36}{median_us(call):10.2f} us")
    print("\n10,000 waits of one mailbox: ours, the library alone")
    now = datetime.now(UTC)
    for source in WAITS:
        mine, other = compile_expression(source), library.compile(source, disable_check=True)
        data = {"event": TRIGGERING, "async": CANDIDATE}
        ours = median_us(lambda e=mine: e.measured_match(TRIGGERING, CANDIDATE, now), 2_000)
        theirs = median_us(lambda e=other, d=data: e.eval(data=d).value(), 50)
        print(f"{ours * 10:10.0f} ms{theirs * 10:12.0f} ms   {source}")


if __name__ == "__main__":
    main()
