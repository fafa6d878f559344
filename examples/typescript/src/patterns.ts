import { invoke, NonRetriableError, staticSchema } from "inngest";
import {
  chargeRequested,
  contactsUploaded,
  customerChanged,
  durations,
  inngest,
  orderShipped,
} from "./client.js";

/** A loop: each round is a step of its own, and is never repeated once it is done. */
export const importContacts = inngest.createFunction(
  { id: "import-contacts", triggers: [contactsUploaded] },
  async ({ event, step }) => {
    let contacts = 0;
    for (let page = 0; page < event.data.pages; page++) {
      contacts += await step.run(`page-${page}`, () => importPage(page));
      await step.sleep(`pause-${page}`, durations.pause);
    }
    return { contacts };
  },
);

/** Errors: some are worth another attempt, some are not, and a person must hear of some. */
export const charge = inngest.createFunction(
  {
    id: "charge",
    retries: 3,
    triggers: [chargeRequested],
    onFailure: async ({ event, error, step }) => {
      const { orderId } = event.data.event.data;
      await step.run("tell-the-team", () => {
        console.log(`Order ${orderId} could not be charged: ${error.message}`);
      });
    },
  },
  async ({ event, step }) => {
    const { card } = event.data;
    await step.run("authorize", () => {
      // Another attempt would not help.
      if (card === "stolen") throw new NonRetriableError("the card was declined");
    });
    try {
      return await step.run("capture", () => capture(card));
    } catch {
      return await step.run("capture-by-hand", () => "to be captured by hand");
    }
  },
);

/** Other functions invoke it; it has no other trigger. */
export const score = inngest.createFunction(
  { id: "score", triggers: [invoke(staticSchema<{ orders: number }>())] },
  async ({ event, step }) => step.run("score", () => event.data.orders * 10),
);

/** Another function's result, as if it were a step; and events for whoever wants them. */
export const rewardCustomer = inngest.createFunction(
  { id: "reward-customer", triggers: [orderShipped] },
  async ({ event, step }) => {
    const points = await step.invoke("score", { function: score, data: { orders: 3 } });
    const { orderId } = event.data;
    const changes = [1, 2].map((change) => customerChanged.create({ customer: orderId, change }));
    const { ids } = await step.sendEvent("changes", changes);
    return { orderId, points, changes: ids };
  },
);

/** A real one would store what is there. */
async function importPage(page: number) {
  return 10 * (page + 1);
}

/** A real one would ask the bank; on an error the step is tried again. */
async function capture(card: string) {
  if (card === "odd") throw new NonRetriableError("the bank does not know what to do");
  return `captured ${card}`;
}
