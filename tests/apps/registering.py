"""The same app as `js/registering.mjs`, on the official SDK for Python."""

import os

import fastapi
import inngest
import inngest.fast_api
import uvicorn

client = inngest.Inngest(app_id=os.environ["APP_ID"])


def function(id: str) -> inngest.Function:
    invalid = os.environ.get("INVALID")

    @client.create_function(
        fn_id=id,
        trigger=inngest.TriggerEvent(event=f"py/{id}"),
        rate_limit=inngest.RateLimit(limit=1, period=int(invalid)) if invalid else None,
    )
    async def handler(ctx: inngest.Context) -> str:
        return id

    return handler


app = fastapi.FastAPI()
functions = [function(id) for id in os.environ["FUNCTIONS"].split(",")]
inngest.fast_api.serve(app, client, functions)
inngest.fast_api.serve(app, client, functions, serve_path="/moved")

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
