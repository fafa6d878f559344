"""The examples do what they say. Apart from their import, they are modules for the official SDK."""

import ast
import re
import runpy
import textwrap
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import inngest as official
import pytest
from temporalio.client import Client

import inngest_temporal as inngest
from examples import flow_control, orders, patterns
from inngest_temporal.testing import Result, Status, Timeout, trigger
from inngest_temporal_workers.plugin import parts_of
from tests.harness import App, running, until

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def run(
    function: inngest.Function[Any], stubs: dict[str, object] | None = None, /, **data: Any
) -> Result:
    return trigger(function, inngest.Event(name="example", data=data), step_stubs=stubs)


def test_an_order_that_is_paid_is_shipped() -> None:
    payment = inngest.Event(name="shop/payment.received", data={"orderId": "o-1", "amount": 30})
    result = run(orders.fulfil_order, {"payment": payment}, orderId="o-1", userId="u-1")
    assert result.output == {
        "orderId": "o-1",
        "status": "shipped",
        "paid": 30,
        "tracking": "parcel-o-1",
    }
    assert result.steps == ["get-user", "cooling-off", "payment", "ship", "tell-others"]
    assert [event.name for event in result.sent] == ["shop/order.shipped"]


def test_an_order_that_is_not_paid_is_cancelled() -> None:
    result = run(orders.fulfil_order, {"payment": Timeout}, orderId="o-1", userId="u-1")
    assert result.output == {"orderId": "o-1", "status": "cancelled", "reason": "not paid in time"}
    assert result.steps[-1] == "cancel"


def test_parallel_steps_give_their_results_in_order() -> None:
    assert run(patterns.parallel).output == [5, 8]


def test_a_loop_remembers_each_round() -> None:
    result = run(patterns.loop, rounds=3)
    assert result.output == 5
    assert result.steps == ["square-0", "pause-0", "square-1", "pause-1", "square-2", "pause-2"]


def test_a_flaky_step_is_tried_again_and_the_one_before_it_is_not() -> None:
    result = run(patterns.flaky)
    assert result.output == "fetched with token in attempt 2"
    assert result.steps == ["log-in", "fetch"]


def test_a_step_that_fails_for_good_can_be_replaced() -> None:
    assert run(patterns.fallback).output == "the second service answered"


def test_a_declined_card_fails_the_run_at_once() -> None:
    result = run(patterns.charge, card="stolen", amount=3)
    assert result.status is Status.FAILED
    assert result.error is not None
    assert result.error.message == "the card was declined"
    assert run(patterns.charge, card="valid", amount=3).output == "authorized"


@pytest.mark.parametrize("module", [orders, patterns], ids=lambda module: str(module.__name__))
def test_a_worker_accepts_the_functions(module: Any) -> None:
    functions = [value for value in vars(module).values() if isinstance(value, inngest.Function)]
    assert parts_of(functions)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.stem))
def test_apart_from_its_import_an_example_is_a_module_for_the_official_sdk(
    path: Path, tmp_path: Path
) -> None:
    source = path.read_text()
    assert source.count("import inngest_temporal as inngest") == 1
    copy = tmp_path / path.name
    copy.write_text(source.replace("import inngest_temporal as inngest", "import inngest"))
    module = runpy.run_path(str(copy))
    functions = [value for value in module.values() if isinstance(value, official.Function)]
    ours = runpy.run_path(str(path))
    assert {each.id for each in functions} == {
        value.id for value in ours.values() if isinstance(value, inngest.Function)
    }
    for function in functions:
        config = function.get_config("http://localhost/").main
        assert config.triggers


def test_the_official_sdk_gives_the_same_result() -> None:
    """The official SDK's own test helper runs the same source."""
    mocked = pytest.importorskip("inngest.experimental.mocked")
    source = (
        (EXAMPLES[0].parent / "patterns.py")
        .read_text()
        .replace("import inngest_temporal as inngest", "import inngest")
    )
    module: dict[str, Any] = {"__name__": "official_patterns"}
    exec(compile(source, "official_patterns", "exec"), module)
    event = official.Event(name="example", data={"rounds": 4})
    result = mocked.trigger(
        module["loop"], event, mocked.Inngest(app_id="patterns", is_production=False)
    )
    assert result.output == run(patterns.loop, rounds=4).output == 14


ROOT = EXAMPLES[0].parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks() -> list[Any]:
    """The blocks of Python in our documents, named by page and number."""
    return [
        pytest.param(textwrap.dedent(match[2]), id=f"{page.name}-{number}")
        for page in PAGES
        for number, match in enumerate(
            re.finditer(r"^( *)```python\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE)
        )
    ]


@pytest.mark.parametrize("code", code_blocks())
def test_code_in_documents_compiles_and_names_what_exists(code: str) -> None:
    compile(code, "document", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(ast.parse(code)):
        text = ast.unparse(node)
        if isinstance(node, ast.Import | ast.ImportFrom) and "inngest_temporal" in text:
            exec(text, {})
        elif isinstance(node, ast.Attribute) and text.startswith("inngest."):
            assert hasattr(inngest, node.attr)
        elif isinstance(node, ast.Attribute) and text.startswith("ctx.step."):
            assert hasattr(inngest.Step, node.attr)


def test_the_readmes_flow_control_is_accepted() -> None:
    """Each line of the table shows an argument that is accepted."""
    lines = re.findall(r"^\| [\w ]+ \| `(\w+=.+?)` \|", README, re.MULTILINE)
    assert len(lines) >= 8
    client = inngest.Inngest(app_id="readme", is_production=False)
    for number, line in enumerate(lines):
        options = eval(f"dict({line})", dict(vars(inngest)))
        create = client.create_function(
            fn_id=f"f{number}", trigger=inngest.TriggerEvent(event="e"), **options
        )

        @create
        async def function(ctx: inngest.Context) -> None: ...

        assert parts_of([function])


def test_the_readme_shows_the_example_as_it_is() -> None:
    shown = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0].strip()
    assert shown in (EXAMPLES[0].parent / "orders.py").read_text()


def test_the_readmes_test_passes() -> None:
    [code] = [
        code
        for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "def test_" in code
    ]
    names: dict[str, Any] = {"fulfil_order": orders.fulfil_order}
    exec(code, names)
    names["test_an_unpaid_order_is_cancelled"]()


async def test_the_flow_control_example_does_what_its_comments_say(client: Client) -> None:
    """This needs a real server: the in-process harness knows nothing of flow control."""
    functions = [
        value for value in vars(flow_control).values() if isinstance(value, inngest.Function)
    ]
    assert len(functions) == 7

    async def ended(app: App, local_id: str) -> list[Any]:
        query = f"WorkflowType = 'flow-{local_id}' AND ExecutionStatus = 'Completed'"
        return [
            await app.client.get_workflow_handle(run.id).result()
            async for run in app.client.list_workflows(query)
        ]

    async with running(client, *functions) as app:
        for n in range(4):
            await app.send(
                "flow/order", {"customer": f"c{n % 2}", "plan": "pro" if n % 2 else "free", "n": n}
            )
        expected = {
            "charge": ["charged c0", "charged c0", "charged c1", "charged c1"],
            "tell-the-carrier": [None] * 4,
            "thank-you": ["mailed c0", "mailed c1"],
            "index-customer": [2, 3],
            "bookkeeping": [4],
            "recommend": [None] * 2,
            "welcome": [None] * 2,
        }
        for local_id, results in expected.items():
            count = len(results)
            await until(lambda local_id=local_id, count=count: has(ended(app, local_id), count), 30)
            assert sorted(await ended(app, local_id), key=str) == results, local_id
        cancelled = "WorkflowType = 'flow-recommend' AND ExecutionStatus = 'Canceled'"
        assert (await client.count_workflows(cancelled)).count == 2


async def has(found: Awaitable[list[Any]], count: int) -> bool:
    return len(await found) >= count
