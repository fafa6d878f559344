"""What all pages have in common: who may open them, what they are answered with, and the headers of
every reply."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from inngest_temporal.errors import (
    BodyInvalidError,
    CursorInvalidError,
    Error,
    FunctionNotFoundError,
    RunNotFoundError,
    VisibilityBusyError,
)
from inngest_temporal.http.auth import Keys
from inngest_temporal.http.bodies import Bodies
from inngest_temporal.http.replies import unavailable
from inngest_temporal.temporal.connection import DashboardMode, Settings

from .rendering import render
from .sessions import Sessions, local_path, origin_of

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: with that, browsers send forms without saying where they are from.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
MAX_FIELDS = 2_000

Page = Callable[[Request], Awaitable[Response]]


class PageError(Exception):
    """Ends a request with a page that shows the problem."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text


@dataclass(frozen=True)
class Message:
    """A message above the content of a page."""

    text: str
    bad: bool = False


@dataclass(frozen=True)
class Shown:
    """The content of the frame around a page."""

    section: str
    """Path of the page in the navigation; empty: none."""
    signed_in: bool
    can_sign_out: bool
    read_only: bool
    dev: bool
    message: Message | None


class Form:
    """The fields of a form."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """A field's text, empty if the form does not have it."""
        return self._fields.get(name, [""])[0]

    def texts(self, name: str) -> list[str]:
        """The texts of all fields with this name."""
        return list(self._fields.get(name, []))


class Site:
    """Answers requests of browsers."""

    def __init__(self, settings: Settings, keys: Keys, bodies: Bodies) -> None:
        self.settings = settings
        self._keys = keys
        self._bodies = bodies
        self._sessions = Sessions(settings.signing_keys)

    def page(self, path: str, get: Page, post: Page | None = None) -> Route:
        """The route of a page for signed-in users; `post` handles its forms."""

        async def answer(request: Request) -> Response:
            if not self._may_open():
                raise PageError(503, "The dashboard is off", _OFF)
            if not self._sessions.is_open(request):
                return self._sign_in_first(request)
            if request.method != "POST":
                return await get(request)
            self._check_origin(request)
            if self.settings.dashboard == DashboardMode.READ_ONLY:
                raise PageError(403, "This dashboard only shows", _READ_ONLY)
            assert post is not None
            return await post(request)

        methods = ["GET"] if post is None else ["GET", "POST"]
        return Route(path, self._guarded(answer), methods=methods)

    def routes(self) -> list[Route]:
        """Signing in and out."""
        return [
            Route("/sign-in", self._guarded(self._sign_in), methods=["GET", "POST"]),
            Route("/sign-out", self._guarded(self._sign_out), methods=["POST"]),
        ]

    async def show(
        self,
        request: Request,
        template: str,
        *,
        section: str = "",
        status: int = 200,
        message: Message | None = None,
        **context: Any,
    ) -> Response:
        """Render a page in a thread: a large one takes a moment, and others must be served
        meanwhile."""
        signed_in = self._may_open() and self._sessions.is_open(request)
        site = Shown(
            section,
            signed_in,
            signed_in and self._sessions.needed,
            self.settings.dashboard == DashboardMode.READ_ONLY,
            self.settings.dev,
            message or _message(request),
        )
        text = await asyncio.to_thread(
            render, template, site=site, ui_url=self.settings.temporal_ui_url, **context
        )
        return HTMLResponse(text, status)

    async def form(self, request: Request) -> Form:
        """The form in a request. Raises `BodyInvalidError`, `OverloadedError`."""
        async with self._bodies.read(request) as body:
            try:
                fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
            except ValueError as error:
                raise PageError(400, "The form can't be read", str(error)) from None
        return Form(fields)

    def _may_open(self) -> bool:
        return self._sessions.needed or self.settings.dev

    def _sign_in_first(self, request: Request) -> Response:
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        target = f"/sign-in?next={quote(here)}"
        if "hx-request" in request.headers:  # a page that was open when its session ended
            return Response(status_code=401, headers={"HX-Redirect": target})
        return RedirectResponse(target, 303)

    async def _sign_in(self, request: Request) -> Response:
        if not self._may_open():
            raise PageError(503, "The dashboard is off", _OFF)
        going_to = local_path(request.query_params.get("next", "/"))
        if self._sessions.is_open(request):
            return RedirectResponse(going_to, 303)
        if request.method == "GET":
            return await self.show(request, "sign_in.html", next=going_to, refused=False)
        self._check_origin(request)
        form = await self.form(request)
        if not self._keys.is_signing_key(form.text("key").strip()):
            return await self.show(request, "sign_in.html", status=401, next=going_to, refused=True)
        response = RedirectResponse(going_to, 303)
        self._sessions.begin(request, response)
        return response

    async def _sign_out(self, request: Request) -> Response:
        self._check_origin(request)
        response = RedirectResponse("/sign-in", 303)
        self._sessions.end(request, response)
        return response

    def _check_origin(self, request: Request) -> None:
        if origin_of(request) != "ours":
            raise PageError(
                403,
                "This form is from another site",
                "Forms are taken from pages of this dashboard only. Scripts use the API.",
            )

    def _guarded(self, page: Page) -> Page:
        """Adds pages for errors, and the headers of all replies."""

        @wraps(page)
        async def answer(request: Request) -> Response:
            try:
                response = await page(request)
            except Exception as error:
                problem = _problem(error)
                if problem is None:
                    raise
                response = await self.show(
                    request,
                    "error.html",
                    status=problem.status,
                    title=problem.title,
                    text=problem.text,
                )
            response.headers.update(HEADERS)
            return response

        return answer


_OFF = (
    "Nobody could sign in: no signing key is set. Set INNGEST_SIGNING_KEY for this ingress, and"
    " sign in with that key; or INNGEST_DEV=1 on your own machine."
)
_READ_ONLY = "It is served read-only (--dashboard read-only), so nothing can be changed here."

_MESSAGES = {
    "cancelled": ("Asked {n} to be cancelled.", "run", "runs"),
    "rerun": ("Started {n} again.", "run", "runs"),
    "sent": ("Sent {n}.", "event", "events"),
    "paused": ("Paused: new runs wait until the function is resumed.", "", ""),
    "resumed": ("Resumed: the runs that wait start now.", "", ""),
    "invoked": (
        "The function was invoked, and flow control starts its run later or not at all.",
        "",
        "",
    ),
    "replay-cancelled": ("The replay starts no further runs.", "", ""),
}


def address(path: str, **fields: str | None) -> str:
    """The address of a page with a query; fields that are empty are left out."""
    given = {name: value for name, value in fields.items() if value}
    return path + (f"?{urlencode(given)}" if given else "")


def run_address(run_id: str) -> str:
    """The address of a run's page."""
    return f"/runs/{quote(run_id, safe='')}"


def function_address(function_id: str) -> str:
    """The address of a function's page."""
    return f"/functions/{quote(function_id, safe='')}"


def replay_address(replay_id: str) -> str:
    """The address of a replay's page."""
    return f"/replays/{quote(replay_id, safe='')}"


def unknown_action(form: Form) -> PageError:
    """The error for a form that none of our pages sends."""
    return PageError(400, "This can't be done", f"There is no action {form.text('action')!r}.")


def done(path: str, code: str, count: int = 1) -> Response:
    """Redirect to a page that says what was done."""
    mark = "&" if "?" in path else "?"
    return RedirectResponse(f"{path}{mark}done={code}&n={count}", 303)


def _message(request: Request) -> Message | None:
    """The message about the form before. An address can't make a page show any other text."""
    said = _MESSAGES.get(request.query_params.get("done", ""))
    if said is None:
        return None
    text, one, many = said
    given = request.query_params.get("n", "1")
    count = int(given) if given.isascii() and given.isdigit() and len(given) < 7 else 1
    return Message(text.format(n=f"{count} {one if count == 1 else many}"))


def _problem(error: Exception) -> PageError | None:
    """The page for an error; None for a bug."""
    if isinstance(error, PageError):
        return error
    if isinstance(error, VisibilityBusyError):
        return PageError(503, "Too much at once", str(error))
    if isinstance(error, CursorInvalidError):
        return PageError(400, "There is no such page", str(error))
    if isinstance(error, BodyInvalidError):
        return PageError(400, "This can't be taken", error.message)
    failure = unavailable(error)
    if failure is None:
        if not isinstance(error, Error):
            return None
        missing = isinstance(error, RunNotFoundError | FunctionNotFoundError)
        return PageError(404 if missing else 400, "This can't be done", str(error))
    status, text = failure
    title = "Temporal refused this" if status == 400 else "Temporal can't be reached"
    return PageError(status, title, text + ".")


def read_json(text: str, field: str) -> Any:
    """Decode JSON that a person has typed. Raises `BodyInvalidError`."""
    try:
        return json.loads(text or "{}", parse_constant=_no_constant)
    except ValueError as error:
        raise BodyInvalidError(f"{field} is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")
