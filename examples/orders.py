"""An order: look up the customer, wait for the payment, then ship or cancel.

Written for the official Inngest SDK; only the import differs. Try it with

    inngest-temporal dev examples/orders.py
"""

import datetime

import inngest_temporal as inngest

client = inngest.Inngest(app_id="shop")


@client.create_function(
    fn_id="fulfil-order",
    name="Fulfil an order",
    trigger=inngest.TriggerEvent(event="shop/order.created"),
)
async def fulfil_order(ctx: inngest.Context) -> dict[str, object]:
    """Fulfil an order once it is paid; cancel it if it isn't within half a minute."""
    order_id = str(ctx.event.data["orderId"])
    user = await ctx.step.run("get-user", get_user, str(ctx.event.data["userId"]))

    # Time to change one's mind. It costs nothing: while the run sleeps, no process holds it.
    await ctx.step.sleep("cooling-off", datetime.timedelta(seconds=1))

    payment = await ctx.step.wait_for_event(
        "payment",
        event="shop/payment.received",
        if_exp="event.data.orderId == async.data.orderId",
        timeout=datetime.timedelta(seconds=30),
    )
    if payment is None:
        await ctx.step.run("cancel", cancel, order_id)
        return {"orderId": order_id, "status": "cancelled", "reason": "not paid in time"}

    tracking = await ctx.step.run("ship", ship, order_id, user["address"])
    await ctx.step.send_event(
        "tell-others",
        inngest.Event(name="shop/order.shipped", data={"orderId": order_id, "tracking": tracking}),
    )
    return {
        "orderId": order_id,
        "status": "shipped",
        "paid": payment.data.get("amount"),
        "tracking": tracking,
    }


async def get_user(user_id: str) -> dict[str, str]:
    """A real one would ask a database."""
    return {"id": user_id, "address": f"{user_id} Main Street"}


async def ship(order_id: str, address: str) -> str:
    """A real one would call the carrier; on an error the step is tried again."""
    return f"parcel-{order_id}"


async def cancel(order_id: str) -> None:
    """A real one would free the stock."""
