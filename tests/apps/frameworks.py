"""One app of the official SDK for Python, on a framework of one's choice: `python
tests/apps/frameworks.py fast_api|flask|django`, with PORT and INNGEST_DEV in the environment. Its
functions are sync, as is usual with these frameworks."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import inngest

FRAMEWORK = sys.argv[1]
PORT = int(os.environ["PORT"])

client = inngest.Inngest(app_id=FRAMEWORK)


@client.create_function(
    fn_id="steps", retries=1, trigger=inngest.TriggerEvent(event=f"{FRAMEWORK}/steps")
)
def steps(ctx: inngest.ContextSync) -> Any:
    first = ctx.step.run("first", lambda: ctx.event.data["n"])
    ctx.step.sleep("nap", timedelta(seconds=1))
    both = ctx.group.parallel(
        (lambda: ctx.step.run("left", lambda: "l"), lambda: ctx.step.run("right", lambda: "r"))
    )
    try:
        ctx.step.run("bad", fail)
    except inngest.StepError as error:
        return [first, *both, error.message, ctx.attempt]


def fail() -> None:
    raise ValueError("boom")


@client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event=f"{FRAMEWORK}/child"))
def child(ctx: inngest.ContextSync) -> Any:
    return ctx.event.data["n"]


@client.create_function(fn_id="parent", trigger=inngest.TriggerEvent(event=f"{FRAMEWORK}/parent"))
def parent(ctx: inngest.ContextSync) -> Any:
    return ctx.step.invoke("child", function=child, data={"n": 7})


FUNCTIONS = [steps, child, parent]


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_wsgi(app: Any) -> None:
    make_server("127.0.0.1", PORT, app, handler_class=Quiet).serve_forever()


def on_fast_api() -> None:
    import fastapi
    import inngest.fast_api
    import uvicorn

    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, FUNCTIONS)
    uvicorn.run(app, port=PORT, log_level="warning")


def on_flask() -> None:
    import flask
    import inngest.flask

    app = flask.Flask("app")
    inngest.flask.serve(app, client, FUNCTIONS)
    serve_wsgi(app)


def on_django() -> None:
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    settings.configure(ROOT_URLCONF="frameworks", ALLOWED_HOSTS=["*"], SECRET_KEY="test")
    # Django finds the routes in a module: this one.
    sys.modules["frameworks"] = sys.modules[__name__]
    app = get_wsgi_application()

    import inngest.django

    globals()["urlpatterns"] = [inngest.django.serve(client, FUNCTIONS)]
    serve_wsgi(app)


SERVE: dict[str, Callable[[], None]] = {
    "fast_api": on_fast_api,
    "flask": on_flask,
    "django": on_django,
}

if __name__ == "__main__":
    SERVE[FRAMEWORK]()
