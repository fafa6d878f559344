// When a function runs, and how often, in a line each. It holds however many processes there are.
import {
  customerChanged,
  inngest,
  itemSold,
  orderCreated,
  reportRequested,
} from "./client.js";

export const thankYou = inngest.createFunction(
  {
    id: "thank-you",
    triggers: [orderCreated],
    // One mail an hour for each customer: further orders send none.
    rateLimit: { limit: 1, period: "1h", key: "event.data.userId" },
  },
  async ({ event, step }) => step.run("mail", () => `thanked ${event.data.userId}`),
);

export const callCarrier = inngest.createFunction(
  {
    id: "call-carrier",
    triggers: [orderCreated],
    // The carrier takes one call a second: more orders wait for their turn, none is dropped.
    throttle: { limit: 1, period: "1s" },
  },
  async ({ step }) => step.run("call", () => Date.now()),
);

export const indexCustomer = inngest.createFunction(
  {
    id: "index-customer",
    triggers: [customerChanged],
    // Runs once a customer has been quiet for two seconds, with the last event.
    debounce: { period: "2s", key: "event.data.customer" },
  },
  async ({ event, step }) => step.run("index", () => event.data.change),
);

export const report = inngest.createFunction(
  {
    id: "report",
    triggers: [reportRequested],
    concurrency: { limit: 1 },
    // Those of paying customers go first: as if they had come two minutes earlier.
    priority: { run: "event.data.plan == 'pro' ? 120 : 0" },
  },
  async ({ event, step }) => {
    return await step.run("write", async () => {
      console.log(`Writing report ${event.data.name}`);
      const began = Date.now();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return began;
    });
  },
);

export const bookkeeping = inngest.createFunction(
  {
    id: "bookkeeping",
    triggers: [itemSold],
    // Up to three sales in one run; after five seconds it does not wait for more.
    batchEvents: { maxSize: 3, timeout: "5s" },
  },
  async ({ events, step }) => {
    const total = events.reduce((sum, { data }) => sum + data.price, 0);
    return await step.run("book", () => ({ sales: events.length, total }));
  },
);
