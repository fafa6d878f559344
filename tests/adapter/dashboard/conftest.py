"""What tests of the dashboard share: a browser, and an ingress on loopback."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.browsing import Watched, chromium, connected, profile


@pytest.fixture(scope="session")
def chromium_address() -> Iterator[str]:
    """A browser for all tests of this process."""
    with chromium() as address:
        yield address


@pytest_asyncio.fixture
async def browser(chromium_address: str) -> AsyncIterator[Browser]:
    async with connected(chromium_address) as browser:
        yield browser


@pytest_asyncio.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page. The test fails if a script of the page fails, or does what its policy forbids."""
    async with profile(browser, viewport={"width": 1200, "height": 900}) as context:
        watched = Watched(await context.new_page())
        yield watched.page
    assert watched.complaints == []
