"""Flow control: when a function runs, and how often, in a line each. It holds across all workers
and ingresses.

Written for the official Inngest SDK; only the import differs. Try it with

    inngest-temporal dev examples/flow_control.py
"""

import datetime

import inngest_temporal as inngest

client = inngest.Inngest(app_id="flow")
ORDER = inngest.TriggerEvent(event="flow/order")
MINUTE = datetime.timedelta(minutes=1)


@client.create_function(
    fn_id="charge",
    trigger=ORDER,
    # At most two charges of one customer at once, however many workers there are. A run counts
    # only while its step executes.
    concurrency=[inngest.Concurrency(limit=2, key="event.data.customer")],
    # Orders of paying customers go first: as if they had come two minutes earlier.
    priority=inngest.Priority(run="event.data.plan == 'pro' ? 120 : 0"),
)
async def charge(ctx: inngest.Context) -> str:
    return await ctx.step.run("charge", ask_the_bank, str(ctx.event.data["customer"]))


@client.create_function(
    fn_id="tell-the-carrier",
    trigger=ORDER,
    # The carrier's API takes 100 calls a minute: more orders wait for their turn, none is dropped.
    throttle=inngest.Throttle(limit=100, period=MINUTE),
)
async def tell_the_carrier(ctx: inngest.Context) -> None:
    await ctx.step.run("call", call_the_carrier)


@client.create_function(
    fn_id="thank-you",
    trigger=ORDER,
    # One mail an hour for each customer: further orders send none.
    rate_limit=inngest.RateLimit(limit=1, period=60 * MINUTE, key="event.data.customer"),
)
async def thank_you(ctx: inngest.Context) -> str:
    return await ctx.step.run("mail", mail, str(ctx.event.data["customer"]))


@client.create_function(
    fn_id="index-customer",
    trigger=ORDER,
    # Runs once a customer has been quiet for two seconds, after a minute at the latest, with the
    # last event.
    debounce=inngest.Debounce(period=2_000, timeout=MINUTE, key="event.data.customer"),
)
async def index_customer(ctx: inngest.Context) -> object:
    return await ctx.step.run("index", index, ctx.event.data.get("n", 1))


@client.create_function(
    fn_id="bookkeeping",
    trigger=ORDER,
    # Up to 100 orders in one run; after five seconds it does not wait for more.
    batch_events=inngest.Batch(max_size=100, timeout=5_000),
)
async def bookkeeping(ctx: inngest.Context) -> int:
    return await ctx.step.run("write", write, len(ctx.events))


@client.create_function(
    fn_id="recommend",
    trigger=ORDER,
    # The newest order of a customer is what counts: it cancels the run for the one before.
    singleton=inngest.Singleton(mode="cancel", key="event.data.customer"),
)
async def recommend(ctx: inngest.Context) -> None:
    await ctx.step.sleep("think", 1_000)


@client.create_function(
    fn_id="welcome",
    trigger=ORDER,
    # Runs once in 24 hours for each customer, whatever the event's id is.
    idempotency="event.data.customer",
)
async def welcome(ctx: inngest.Context) -> None: ...


async def ask_the_bank(customer: str) -> str:
    """A real one would take a moment."""
    return f"charged {customer}"


async def call_the_carrier() -> None:
    """A real one would call the carrier's API."""


async def mail(customer: str) -> str:
    """A real one would send it."""
    return f"mailed {customer}"


async def index(order: object) -> object:
    """A real one would write to a search engine."""
    return order


async def write(count: int) -> int:
    """A real one would write to the ledger, all at once."""
    return count
