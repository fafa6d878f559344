"""A browser for tests: Debian's Chromium without a window, driven by Playwright.

One browser serves all tests of a process; each test has a profile of its own in it.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests import node

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
NEEDED = "INNGEST_TESTS_NEED_BROWSER"
"""Set where there must be a browser, as in CI: tests then fail if there is none."""
START_SECONDS = 60
TIMEOUT_MS = 30_000
"""How long a test waits for something to appear, on a machine that does much else."""
SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
COLOURS = ("color-contrast", "link-in-text-block")
"""The rules of axe-core that are about colours."""
AXE = Path(__file__).with_name("apps") / "axe"


def program() -> str:
    """Path of a browser. If there is none, skips the test, or fails it if `NEEDED` is set."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        message = "No Chromium: apt-get install chromium, for the tests that look at pages."
        if os.environ.get(NEEDED):
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextlib.contextmanager
def chromium() -> Iterator[str]:
    """A running browser; yields the address at which it is driven."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [program(), "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        log = Path(profile) / "log"
        with log.open("w") as output:
            running = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield f"http://127.0.0.1:{_port(Path(profile), running, log)}"
        finally:
            running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(10)
            running.kill()
            running.wait()


def _port(profile: Path, running: "subprocess.Popen[bytes]", log: Path) -> int:
    """The port that the browser has chosen."""
    told = profile / "DevToolsActivePort"
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert running.poll() is None, log.read_text()
        if told.exists() and (lines := told.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError(f"Chromium does not answer: {log.read_text()}")


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Browser]:
    """The browser at an address, as Playwright drives it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def profile(browser: Browser, **options: object) -> AsyncIterator[BrowserContext]:
    """A profile of its own, without cookies."""
    context = await browser.new_context(locale="en-GB", timezone_id="UTC", **options)  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    await context.close()


class Watched:
    """A page, and what it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))

    def _heard(self, kind: str, text: str) -> None:
        # The browser also tells of replies with an error status, which tests check themselves, and
        # of servers that are gone at the end of a test.
        gone = "Failed to load resource" in text or "Failed to fetch" in text
        if kind in ("error", "warning") and not gone:
            self.complaints.append(text)


async def violations(page: Page, *, only: Sequence[str] = ()) -> list[str]:
    """What axe-core finds serious or critical on a page, for people who can't see or point. `only`:
    the rules to check; by default, all."""
    node.install(AXE)
    if not await page.evaluate("'axe' in window"):
        source = (AXE / "node_modules" / "axe-core" / "axe.min.js").read_text()
        await page.evaluate(f"() => {{ {source} }}")
    found = await page.evaluate("(only) => axe.run(only.length ? {runOnly: only} : {})", [*only])
    return [
        f"{each['id']}: {each['help']}: {one['html'][:200]} {one['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for one in each["nodes"][:3]
    ]
