import {
  durations,
  inngest,
  orderCancelled,
  orderCreated,
  orderShipped,
  paymentReceived,
} from "./client.js";

/** Fulfil an order once it is paid; cancel it if it isn't in time. */
export const fulfilOrder = inngest.createFunction(
  { id: "fulfil-order", name: "Fulfil an order", triggers: [orderCreated] },
  async ({ event, step }) => {
    const { orderId, userId } = event.data;
    const user = await step.run("get-user", () => getUser(userId));

    // Time to change one's mind. It costs nothing: while the run sleeps, no process holds it.
    await step.sleep("cooling-off", durations.coolingOff);

    // The payment of this very order: both events have the same `data.orderId`.
    const payment = await step.waitForEvent("payment", {
      event: paymentReceived,
      match: "data.orderId",
      timeout: durations.payment,
    });
    if (!payment) {
      await step.sendEvent("tell-others", orderCancelled.create({ orderId }));
      return { orderId, status: "cancelled" };
    }

    // Two things at once; each is tried again on its own if it fails.
    const [tracking, invoice] = await Promise.all([
      step.run("ship", () => ship(orderId, user.address)),
      step.run("invoice", () => `invoice-${orderId}-${payment.data.amount}`),
    ]);
    await step.sendEvent("tell-others", orderShipped.create({ orderId, tracking }));
    return { orderId, status: "shipped", tracking, invoice };
  },
);

/** Ask for the payment after a day, unless it has come or the order was cancelled. */
export const remind = inngest.createFunction(
  {
    id: "remind",
    triggers: [orderCreated],
    cancelOn: [
      { event: paymentReceived, match: "data.orderId" },
      { event: orderCancelled, match: "data.orderId" },
    ],
  },
  async ({ event, step }) => {
    await step.sleep("a-while", durations.reminder);
    return await step.run("remind", () => `reminded ${event.data.userId}`);
  },
);

/** A real one would ask a database. */
async function getUser(id: string) {
  return { id, address: `${id} Main Street` };
}

/** A real one would call the carrier. */
async function ship(orderId: string, address: string) {
  return `parcel-${orderId}-to-${address.replaceAll(" ", "-")}`;
}
