// An app on the older major version of the official SDK. The two can't be in one process.
import { Inngest } from "inngest3";
import { serve } from "inngest3/express";
import { quiet, recorded } from "./recording.mjs";

const client = new Inngest({ id: "js3", logger: quiet });
const functions = [];
const fn = (id, options, handler) =>
  functions.push(client.createFunction({ id, ...options }, { event: `js3/${id}` }, handler));

fn("steps", { retries: 1 }, async ({ step, event }) => {
  const first = await step.run("a", () => "a");
  const both = await Promise.all([step.run("p", () => "p"), step.run("q", () => "q")]);
  await step.sleep("sleep", "1s");
  const answer = await step.waitForEvent("wait", { event: "js3/never", timeout: "1s" });
  try {
    await step.run("fails", () => {
      throw new Error("boom");
    });
  } catch (error) {
    return [first, ...both, answer, error.message, event.data];
  }
});
const many3 = async ({ step }) => {
  const results = [];
  for (let n = 0; n < 10; n++) results.push(await step.run("step", () => n));
  return results;
};
fn("many", {}, many3);
fn("checkpoints", { checkpointing: true }, many3);
fn("fails", { retries: 1 }, async ({ attempt }) => {
  throw new Error(`attempt ${attempt}`);
});

const app = recorded();
app.use("/api/inngest", serve({ client, functions }));
app.listen(Number(process.env.PORT), "127.0.0.1");
