"""The dashboard in a browser: what a person sees, and what their clicks do."""

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect
from temporalio.client import Client, WorkflowFailureError

import inngest_temporal as inngest
from inngest_temporal.dashboard import reading
from inngest_temporal.routing import replays
from inngest_temporal.temporal.connection import Settings, connect
from inngest_temporal.traces.models import Attempt, Trace, TraceStep
from inngest_temporal.traces.reading import load_trace
from tests.browsing import COLOURS, SCREENSHOTS, violations
from tests.conftest import Proxy
from tests.harness import TRIGGER, new_client, until

from .world import World, served, world

KEY = "signkey-prod-0123456789abcdef"
EVIL = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>\"'&{{7*7}}"


@pytest.fixture(autouse=True)
def _patient() -> None:
    expect.set_options(timeout=30_000)


def shop(gate: asyncio.Event) -> inngest.Function[Any]:
    """Takes one order at a time, and continues when the gate opens."""

    @new_client("shop").create_function(
        fn_id="order",
        name="Take an order",
        trigger=inngest.TriggerEvent(event="shop/order"),
        concurrency=[inngest.Concurrency(limit=1, level="fn")],
    )
    async def order(ctx: inngest.Context) -> dict[str, object]:
        user = await ctx.step.run("look up user", lambda: _later({"id": 7}))
        await ctx.step.run("reserve", gate.wait)
        await ctx.step.sleep("cool off", timedelta(milliseconds=50))
        payment = await ctx.step.wait_for_event(
            "payment", event="shop/paid", timeout=timedelta(minutes=5)
        )
        assert payment is not None
        return {"user": user, "paid": payment.data["amount"]}

    return order


async def _later(value: Any) -> Any:
    return value


def status(page: Page) -> Any:
    return page.locator("#run-status")


async def test_an_order_is_watched_from_the_queue_to_its_end(client: Client, page: Page) -> None:
    gate = asyncio.Event()
    order = shop(gate)
    async with world(client, order) as app:
        await page.goto(app.url)
        await expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        await expect(page.locator(".command code").first).to_contain_text('"name": "shop/order"')
        await page.evaluate("window.same = true")

        first = app.run_of(order, await app.send("shop/order"))
        second = app.run_of(order, await app.send("shop/order", {"n": 2}))
        row = page.locator(f"#run-{second}")
        await expect(row.locator(".status")).to_have_text("Running")
        await row.get_by_role("link").first.click()

        await expect(status(page)).to_have_text("Scheduled")
        await expect(page.get_by_text("Concurrency of runs: waits")).to_be_visible()
        await page.evaluate("window.same = true")
        gate.set()
        await _pay(app, first, 1)
        await expect(status(page)).to_have_text("Running")
        await expect(page.get_by_role("row", name="payment")).to_contain_text("Waiting")
        await _pay(app, second, 2)
        await expect(status(page)).to_have_text("Completed")

        steps = page.locator(".timeline tbody tr:not(.whole) .name a")
        assert await steps.all_inner_texts() == ["look up user", "reserve", "cool off", "payment"]
        assert await page.evaluate("window.same")  # the page was never reloaded
        await expect(page.locator("#output-json")).to_contain_text('"paid": 2')
        await page.get_by_role("link", name="payment", exact=True).click()
        await expect(page.locator("#step-event-json")).to_contain_text('"amount": 2')
        assert page.url.split("?")[0].endswith(second)
        assert "step=" in page.url
        assert await page.evaluate("window.same")


async def test_a_function_shows_who_waits_for_whom(client: Client, page: Page) -> None:
    gate = asyncio.Event()
    order = shop(gate)
    async with world(client, order) as app:
        first, *others = [
            app.run_of(order, await app.send("shop/order", {"n": n})) for n in range(3)
        ]
        await page.goto(f"{app.url}/functions/{order.id}")
        await expect(page.get_by_text("1 of 1 under way, 2 waiting")).to_be_visible()
        await page.get_by_text("Under way", exact=True).click()
        await expect(page.locator(".flow").get_by_role("link", name=first)).to_be_visible()
        await page.get_by_text("Waiting", exact=True).click()
        for run in others:
            await expect(page.locator(".flow").get_by_role("link", name=run)).to_be_visible()
        assert await violations(page) == []
        gate.set()  # a step under way would hold up the worker's stop


async def _pay(app: World, run: str, amount: int) -> None:
    """Pay until the run has ended: its wait begins a moment after the run asks for it."""

    async def paid() -> bool:
        await app.send("shop/paid", {"amount": amount})
        found = await app.app.client.get_workflow_handle(run).describe()
        return found.close_time is not None

    await until(paid)


async def test_a_row_stays_open_and_chosen_while_the_page_is_refreshed(
    client: Client, page: Page
) -> None:
    gate = asyncio.Event()
    order = shop(gate)
    async with world(client, order) as app:
        run = app.run_of(order, await app.send("shop/order", {"list": [{"deep": {"er": [1]}}]}))
        await page.goto(f"{app.url}/runs")
        await page.get_by_role("checkbox", name=f"Choose run {run}").check()
        await _refreshed(page, "/runs")
        await expect(page.get_by_role("checkbox", name=f"Choose run {run}")).to_be_checked()
        await expect(page.get_by_role("button", name="Cancel")).to_be_enabled()

        await page.goto(f"{app.url}/runs/{run}")
        folded = page.locator("#event-1-json details:not([open]) > summary").first
        await folded.click()
        opened = await page.locator("#event-1-json details[open]").count()
        await _refreshed(page, f"/runs/{run}")
        assert await page.locator("#event-1-json details[open]").count() == opened
        link = page.get_by_role("link", name="look up user")
        await link.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#step-output-json")).to_contain_text('"id": 7')
        await _refreshed(page, f"/runs/{run}?step=")
        await expect(page.locator("#step-output-json")).to_be_visible()
        await expect(link).to_be_focused()
        gate.set()


async def _refreshed(page: Page, path: str) -> None:
    """Wait until a live part of the page was fetched again, and shown."""
    async with page.expect_response(lambda response: path in response.url):
        pass
    await page.evaluate("() => new Promise((done) => setTimeout(done, 100))")


async def test_a_run_is_cancelled_from_its_page_and_several_from_the_list(
    client: Client, page: Page
) -> None:
    page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    order = shop(asyncio.Event())
    async with world(client, order) as app:
        runs = [app.run_of(order, await app.send("shop/order", {"n": n})) for n in range(3)]
        await page.goto(f"{app.url}/runs/{runs[0]}")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("Asked 1 run to be cancelled.")).to_be_visible()
        await expect(status(page)).to_have_text("Cancelled")

        await page.goto(f"{app.url}/runs?status=Running")
        for run in runs[1:]:
            await page.get_by_role("checkbox", name=f"Choose run {run}").check()
        await expect(page.get_by_text("2 chosen")).to_be_visible()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("Asked 2 runs to be cancelled.")).to_be_visible()
        await expect(page.get_by_text("No run matches.")).to_be_visible()


def flaky(broken: list[bool], bodies: list[str]) -> inngest.Function[Any]:
    """A payment that fails for as long as `broken` says so."""

    @new_client("shop").create_function(
        fn_id="pay", name="Pay", trigger=inngest.TriggerEvent(event="shop/pay"), retries=0
    )
    async def pay(ctx: inngest.Context) -> str:
        await ctx.step.run("look up", _body, bodies, "look up", [False])
        await ctx.step.run("charge", _body, bodies, "charge", broken)
        return "paid"

    return pay


async def _body(bodies: list[str], name: str, broken: list[bool]) -> str:
    bodies.append(name)
    if broken[0]:
        raise ValueError("The bank is closed.")
    return name


async def test_a_failed_run_is_rerun_from_its_failed_step(client: Client, page: Page) -> None:
    broken, bodies = [True], list[str]()
    pay = flaky(broken, bodies)
    async with world(client, pay) as app:
        run = app.run_of(pay, await app.send("shop/pay"))
        await page.goto(f"{app.url}/runs/{run}")
        await expect(status(page)).to_have_text("Failed")
        await expect(page.locator("#run-error")).to_be_visible()
        broken[0] = False
        bodies.clear()
        await page.get_by_role("link", name="charge").click()
        await page.get_by_text("Run again from here").click()
        await page.get_by_role("button", name="Run again from charge").click()

        await expect(page.get_by_text("Runs again")).to_be_visible()
        await expect(status(page)).to_have_text("Completed")
        await expect(page.get_by_role("link", name=run)).to_be_visible()
        assert bodies == ["charge"]
        assert not page.url.split("?")[0].endswith(run)

        await page.goto(f"{app.url}/runs/{run}")
        await page.get_by_role("button", name="Run again", exact=True).click()
        await expect(page.get_by_text("Runs again")).to_be_visible()
        await expect(status(page)).to_have_text("Completed")
        assert bodies == ["charge", "look up", "charge"]


async def test_fifty_failed_runs_are_replayed(client: Client, page: Page) -> None:
    page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    broken = [True]
    pay = flaky(broken, [])
    async with world(client, pay) as app:
        sent = [app.run_of(pay, await app.send("shop/pay", {"n": n})) for n in range(50)]
        await asyncio.gather(*(_ended(client, run) for run in sent))
        failed = {"status": "Failed", "function": pay.id}
        await until(lambda: _listed(app, failed, 50))
        broken[0] = False
        await page.goto(f"{app.url}/functions/{pay.id}")
        await page.get_by_label("Runs a second").fill("100")
        await page.get_by_role("button", name="Replay").click()

        await expect(page.locator("#replay-status")).to_have_text("Completed")
        await expect(page.locator("#started")).to_have_text("50")
        await until(lambda: _listed(app, {**failed, "status": "Completed"}, 50))
        await page.goto(f"{app.url}/replays")
        await expect(page.get_by_text("50 of 50 started")).to_be_visible()


async def _ended(client: Client, run: str) -> None:
    with contextlib.suppress(WorkflowFailureError):
        await client.get_workflow_handle(run).result()


async def _listed(app: World, wanted: dict[str, str], count: int) -> bool:
    return (await app.http.get("/runs", params=wanted)).text.count('<tr id="run-') == count


async def test_a_function_is_paused_and_resumed(client: Client, page: Page) -> None:
    bodies = list[str]()
    pay = flaky([False], bodies)
    async with world(client, pay) as app:
        await page.goto(f"{app.url}/functions/{pay.id}")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_text("Paused: new runs wait")).to_be_visible()
        run = app.run_of(pay, await app.send("shop/pay"))
        await page.goto(f"{app.url}/runs/{run}")
        await expect(status(page)).to_have_text("Scheduled")
        await expect(page.get_by_text("Paused: waits")).to_be_visible()
        assert bodies == []
        await page.get_by_role("link", name=pay.id).click()
        await page.get_by_role("button", name="Resume").click()
        await page.goto(f"{app.url}/runs/{run}")
        await expect(status(page)).to_have_text("Completed")


async def test_events_are_sent_and_functions_invoked_from_their_pages(
    client: Client, page: Page
) -> None:
    pay = flaky([False], [])
    async with world(client, pay) as app:
        await page.goto(f"{app.url}/events")
        await page.get_by_label("Name").fill("shop/pay")
        await page.get_by_label("Data, a JSON object").fill('{"order": 1}')
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("Sent 1 event.")).to_be_visible()
        await expect(page.get_by_text(f"starts {pay.id}")).to_be_visible()
        await page.get_by_label("Name").fill("nobody/listens")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("nothing listens for it")).to_be_visible()

        await page.goto(f"{app.url}/functions/{pay.id}")
        await page.get_by_label("Data of the event").fill('{"order": 2}')
        await page.get_by_role("button", name="Invoke").click()
        await expect(status(page)).to_have_text("Completed")
        await expect(page.locator("#event-1-json")).to_contain_text('"order": 2')


async def test_one_signs_in_with_a_signing_key(client: Client, page: Page) -> None:
    async with served(client, Settings(signing_keys=(KEY,))) as http:
        await page.goto(f"{http.base_url}/functions")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await _look(page, "sign-in-light")
        await page.get_by_label("Signing key").fill("signkey-prod-wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_have_text("That is none of the signing keys.")
        await page.goto(f"{http.base_url}/runs")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

        await page.get_by_label("Signing key").fill(KEY)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        [cookie] = await page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert KEY not in cookie["value"]
        await page.context.clear_cookies()  # a page that is open notices when its session ends
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await page.get_by_label("Signing key").fill(KEY)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await page.goto(f"{http.base_url}/runs")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_page_says_when_it_is_not_live_and_continues_afterwards(
    client: Client, page: Page, proxy: Proxy
) -> None:
    broken = await connect(target_host=proxy.address, namespace=client.namespace)
    async with served(broken) as http:
        await page.goto(f"{http.base_url}/runs")
        note = page.get_by_text("This page is not live at the moment")
        await expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        await expect(note).to_be_hidden()
        await proxy.stop()
        await expect(note).to_be_visible()
        await expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        await proxy.start()
        await expect(note).to_be_hidden()
    await expect(note).to_be_visible()


async def test_a_page_that_nobody_looks_at_asks_for_nothing(client: Client, page: Page) -> None:
    async with served(client) as http:
        await page.goto(f"{http.base_url}/runs")
        asked = """() => new Promise((done) => {
            const listen = (event) => {
                document.removeEventListener("htmx:before:request", listen);
                done(!event.defaultPrevented);
            };
            document.addEventListener("htmx:before:request", listen);
        })"""
        assert await page.evaluate(asked)
        hide = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true})"
        await page.evaluate(hide % "true")
        assert not await page.evaluate(asked)
        await page.evaluate(hide % "false")
        async with page.expect_response(lambda response: response.url.endswith("/runs")):
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


async def test_json_is_copied_as_it_is_written(client: Client, page: Page) -> None:
    pay = flaky([False], [])
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    async with world(client, pay) as app:
        data = {"big": 12345678901234567890, "text": 'a "{[,:]}" b', "list": [{}, [], {"x": [1]}]}
        run = app.run_of(pay, await app.send("shop/pay", data))
        await page.goto(f"{app.url}/runs/{run}")
        await page.get_by_role("button", name="Copy shop/pay as JSON").click()
        await expect(page.get_by_role("button", name="Copy shop/pay as JSON")).to_have_text(
            "Copied"
        )
        copied = await page.evaluate("navigator.clipboard.readText()")
        trace = await load_trace(client, run)
        assert trace is not None
        assert copied == json.dumps(trace.events[0], indent=2)
        assert json.loads(copied)["data"] == data


async def test_a_run_of_a_thousand_steps_stays_usable_while_it_runs(
    client: Client, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = tuple(
        TraceStep(
            f"{n:040x}",
            f"step {n}",
            "run",
            "Completed",
            n * 10,
            n * 10 + 9,
            (Attempt(0, n * 10 + 1, n * 10 + 9, queued_ms=n * 10),),
            output={"number": n},
        )
        for n in range(1_000)
    )

    async def load(_: Client, run_id: str) -> Trace:
        return Trace(run_id, "shop-many", "Running", ({"name": "many"},), (), 0, 5, steps=steps)

    monkeypatch.setattr(reading, "load_trace", load)
    async with served(client) as http:
        await page.goto(f"{http.base_url}/runs/many")
        link = page.get_by_role("link", name="step 800", exact=True)
        await link.scroll_into_view_if_needed()
        before = await page.evaluate("window.scrollY")
        assert before > 10_000
        began = time.perf_counter()
        await link.click()
        await expect(page.locator("#step-output-json")).to_contain_text('"number": 800')
        print(f"opened after {time.perf_counter() - began:.2f} s")
        await _refreshed(page, "/runs/many?step=")
        await expect(page.locator("#step-output-json")).to_be_in_viewport()
        assert abs(await page.evaluate("window.scrollY") - before) < 900


def spiteful() -> inngest.Function[Any]:
    """A function all of whose texts are attacks."""

    @new_client("app").create_function(fn_id="evil", name=EVIL, trigger=TRIGGER, retries=0)
    async def evil(ctx: inngest.Context) -> None:
        await ctx.step.run(EVIL, lambda: _later({EVIL: [EVIL]}))
        await ctx.step.run("fails" + EVIL, _fail)

    return evil


async def _fail() -> None:
    raise type("Evil" + EVIL, (Exception,), {})(EVIL)


async def test_what_users_write_is_shown_as_text(client: Client, page: Page) -> None:
    evil = spiteful()
    async with world(client, evil) as app:
        sent = await app.send("test/event", {EVIL: EVIL}, id=EVIL, user={EVIL: EVIL}, v=EVIL)
        await app.send("odd/" + EVIL, {EVIL: EVIL})
        run = app.run_of(evil, sent)
        with pytest.raises(Exception, match="failed"):
            await client.get_workflow_handle(run).result()
        trace = await load_trace(client, run)
        assert trace is not None
        assert len(trace.steps) == 2
        steps = [f"/runs/{run}?step={step.id}" for step in trace.steps]
        await until(lambda: _is_listed(app, run))
        for path in [
            "/runs",
            "/runs?event={0}&function={0}&status={0}&within={0}&done={0}".format(quote(EVIL, "")),
            f"/runs/{quote(EVIL, '')}",
            f"/functions/{quote(EVIL, '')}",
            *steps,
            "/functions",
            f"/functions/{evil.id}",
            "/events",
            f"/events?event={sent}",
        ]:
            await page.goto(app.url + path)
            text = await page.locator("main").inner_text()
            values = await page.locator("input, textarea").evaluate_all(
                "(all) => all.map((each) => each.value).join()"
            )
            assert "<script>window.stolen" in text + values or path == "/runs", path
            assert await page.locator("main script, main img").count() == 0
            assert await page.evaluate("window.stolen") is None


async def _is_listed(app: World, run: str) -> bool:
    return run in (await app.http.get("/runs")).text


async def test_everybody_can_use_every_page(client: Client, page: Page) -> None:
    gate = asyncio.Event()
    order, evil = shop(gate), _failing()
    async with world(client, order, evil) as app:
        await page.goto(f"{app.url}/runs")
        await _look_by_day_and_night(page, "empty")
        run = app.run_of(order, await app.send("shop/order", {"items": [{"sku": "A-1"}]}))
        failed = app.run_of(evil, await app.send("shop/charge", {"customer": "7"}))
        await app.send("nobody/listens")
        gate.set()
        with pytest.raises(Exception, match="failed"):
            await client.get_workflow_handle(failed).result()
        await _pay(app, run, 30)
        await until(lambda: _is_listed(app, failed))
        trace = await load_trace(client, failed)
        assert trace is not None
        form = {"action": "replay", "status": "Failed"}
        answer = await app.http.post(f"/functions/{evil.id}", data=form)
        replay = answer.headers["location"].removeprefix("/replays/")
        await until(lambda: _is_replayed(client, replay))
        for name, path in {
            "runs": "/runs",
            "run": f"/runs/{run}",
            "run-failed": f"/runs/{failed}?step={trace.steps[-1].id}",
            "functions": "/functions",
            "function": f"/functions/{order.id}",
            "events": "/events",
            "replays": "/replays",
            "replay": f"/replays/{replay}",
            "not-found": "/runs/none",
        }.items():
            await page.goto(app.url + path)
            await _look_by_day_and_night(page, name)


async def _is_replayed(client: Client, replay: str) -> bool:
    """Whether the replay has ended, and is listed."""
    return any(
        each.id == replay and each.ended_ms is not None for each in await replays.latest(client)
    )


def _failing() -> inngest.Function[Any]:
    @new_client("shop").create_function(
        fn_id="charge", trigger=inngest.TriggerEvent(event="shop/charge"), retries=2
    )
    async def charge(ctx: inngest.Context) -> None:
        await ctx.step.run("look up card", lambda: _later({"card": "4242"}))
        await ctx.step.run("charge", _decline)

    return charge


async def _decline() -> None:
    raise ValueError("The card was declined.")


async def _look_by_day_and_night(page: Page, name: str) -> None:
    """Look at both themes, which differ in their colours alone."""
    await page.emulate_media(color_scheme="light")
    await _look(page, f"{name}-light")
    await page.emulate_media(color_scheme="dark")
    await _look(page, f"{name}-dark", only=COLOURS)


async def _look(page: Page, name: str, only: Sequence[str] = ()) -> None:
    """Check a page at the widths of a desktop and of a phone, and keep pictures."""
    SCREENSHOTS.mkdir(exist_ok=True)
    assert await violations(page, only=only) == [], name
    for width, suffix in ((1200, ""), (390, "-narrow")):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
        await page.screenshot(path=SCREENSHOTS / f"{name}{suffix}.png", full_page=True)
