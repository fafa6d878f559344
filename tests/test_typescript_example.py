"""The TypeScript example, on the unmodified SDK: `npm ci`, the app, `inngest-temporal dev -u`, and
events over HTTP."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import node
from tests.command_line import Dev, needs_proc, starter, until
from tests.ports import free_port

FOLDER = Path(__file__).parents[1] / "examples" / "typescript"
ENDED = ("Completed", "Failed", "Cancelled")
pytestmark = needs_proc


class Shop:
    """The app and `dev`, as a sender of events sees them."""

    def __init__(self, dev: Dev, log: Path) -> None:
        self.dev = dev
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{dev.port}", timeout=30, verify=False)
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def send(self, name: str, *data: dict[str, Any]) -> list[str]:
        """Send `shop/NAME` once for each of `data`, and return the ids of the events."""
        events = [{"name": f"shop/{name}", "data": each} for each in data]
        answer = self._http.post("/e/dev", json=events)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["ids"])

    def runs(self, event: str) -> dict[str, dict[str, Any]]:
        """The runs of an event that have ended, by function."""
        answer = self._http.get(f"/v1/events/{event}/runs").json()
        runs = [run for run in answer.get("data") or [] if run["status"] in ENDED]
        return {run["function_id"].removeprefix("shop-"): run for run in runs}

    def run(self, event: str, function: str) -> dict[str, Any]:
        """A function's run, once it has ended."""
        what = f"the end of {function}"
        run: dict[str, Any] = until(lambda: self.runs(event).get(function), what)
        return run

    def output(self, event: str, function: str) -> Any:
        """The output of a function's run, which must succeed."""
        run = self.run(event, function)
        assert run["status"] == "Completed", run
        return run["output"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    node.install(FOLDER)
    folder, port = tmp_path_factory.mktemp("shop"), free_port()
    log = folder / "app.log"
    with ExitStack() as stack:
        start = stack.enter_context(starter(folder))
        dev = Dev(start, "-u", f"http://localhost:{port}/api/inngest")
        scripts = json.loads((FOLDER / "package.json").read_text())["scripts"]
        environ = {
            "PORT": str(port),
            "INNGEST_DEV": f"http://127.0.0.1:{dev.port}",
            "PAYMENT_TIMEOUT": "8s",
        }
        command = shlex.split(scripts["start"])
        stack.enter_context(node.process(*command, cwd=FOLDER, log=log, **environ))
        dev.says("  shop-score            only invoked\n")
        shop = Shop(dev, log)

        def starts() -> bool:
            [event] = shop.send("contacts.uploaded", {"pages": 0})
            return any(shop.runs(event) for _ in range(20))

        until(starts, "an ingress that knows the functions")
        yield shop
        assert dev.command.stop() == 0
        assert dev.command.left() == []
        assert "Traceback" not in dev.command.output


def test_the_types_of_the_example_are_right(shop: Shop) -> None:
    command = [str(FOLDER / "node_modules" / ".bin" / "tsc")]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_paid_orders_are_shipped_and_an_unpaid_one_is_cancelled(shop: Shop) -> None:
    """The other functions that an order triggers do what they should, too."""
    paid, unpaid, other = shop.send(
        "order.created",
        {"orderId": "o-1", "userId": "u-1"},
        {"orderId": "o-2", "userId": "u-1"},
        {"orderId": "o-3", "userId": "u-2"},
    )

    def pay() -> Any:
        shop.send("payment.received", {"orderId": "o-1", "amount": 30})
        return shop.runs(paid).get("fulfil-order")

    assert until(pay, "the end of an order that is paid")["output"] == {
        "orderId": "o-1",
        "status": "shipped",
        "tracking": "parcel-o-1-to-u-1-Main-Street",
        "invoice": "invoice-o-1-30",
    }
    cancelled = {"orderId": "o-2", "status": "cancelled"}
    assert shop.output(unpaid, "fulfil-order") == cancelled
    assert shop.run(paid, "remind")["status"] == "Cancelled"
    assert shop.run(unpaid, "remind")["status"] == "Cancelled"

    # One customer is thanked once, however many orders there are.
    assert shop.output(other, "thank-you") == "thanked u-2"
    thanked = [event for event in (paid, unpaid) if "thank-you" in shop.runs(event)]
    assert len(thanked) == 1

    # The carrier is called once a second.
    called = sorted(shop.output(event, "call-carrier") for event in (paid, unpaid, other))
    assert called[2] - called[0] > 500


def test_a_customer_is_rewarded_and_indexed_once(shop: Shop) -> None:
    [event] = shop.send("order.shipped", {"orderId": "o-9", "tracking": "t"})
    reward = shop.output(event, "reward-customer")
    assert reward["points"] == 30
    first, last = reward["changes"]
    assert shop.output(last, "index-customer") == 2
    assert set(shop.runs(first)) <= {"index-customer"}


def test_a_loop_imports_every_page(shop: Shop) -> None:
    [event] = shop.send("contacts.uploaded", {"pages": 3})
    assert shop.output(event, "import-contacts") == {"contacts": 60}


def test_an_error_is_final_or_caught_and_the_team_is_told(shop: Shop) -> None:
    good, odd, stolen = shop.send(
        "charge.requested",
        {"orderId": "o-1", "card": "good"},
        {"orderId": "o-2", "card": "odd"},
        {"orderId": "o-3", "card": "stolen"},
    )
    assert shop.output(good, "charge") == "captured good"
    assert shop.output(odd, "charge") == "to be captured by hand"
    run = shop.run(stolen, "charge")
    assert (run["status"], run["output"]["message"]) == ("Failed", "the card was declined")
    told = "Order o-3 could not be charged: the card was declined"
    until(lambda: told in shop.log, "a team that was told")


def test_reports_of_paying_customers_go_first(shop: Shop) -> None:
    [first] = shop.send("report.requested", {"name": "first", "plan": "free"})
    until(lambda: "Writing report first" in shop.log, "the first report")
    free, pro = shop.send(
        "report.requested", {"name": "free", "plan": "free"}, {"name": "pro", "plan": "pro"}
    )
    began = [shop.output(event, "report") for event in (first, pro, free)]
    assert began == sorted(began)
    assert began[2] - began[0] >= 1900


def test_a_batch_is_booked_in_one_run(shop: Shop) -> None:
    *_, last = shop.send("item.sold", *({"price": price} for price in (1, 2, 3)))
    assert shop.output(last, "bookkeeping") == {"sales": 3, "total": 6}
