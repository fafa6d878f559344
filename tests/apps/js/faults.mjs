// The app of tests/test_http_faults.py on the official SDK for JavaScript: it keeps a journal of
// what it was told, what it executed and what it reported.
import { createHash } from "node:crypto";
import { appendFileSync } from "node:fs";
import express from "express";
import { Inngest } from "inngest";
import { serve } from "inngest/express";

const note = (what, run, steps) =>
  appendFileSync(
    process.env.JOURNAL,
    JSON.stringify({ what, run, steps, pid: process.pid }) + "\n",
  );

const reporting = async (url, options) => {
  const answer = await fetch(url, options);
  if (answer.ok && String(url).includes("/v1/checkpoint/")) {
    const { run_id, steps } = JSON.parse(options.body);
    note("reported", run_id, steps.map((step) => step.id));
  }
  return answer;
};

const client = new Inngest({ id: "js", fetch: reporting });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const work = client.createFunction(
  { id: "work", retries: 20, triggers: [{ event: "js/work" }] },
  async ({ step, runId }) => {
    const execute = (id, ms) =>
      step.run(id, async () => {
        const hashed = createHash("sha1").update(id).digest("hex");
        note("begin", runId, [hashed]);
        await pause(ms);
        note("end", runId, [hashed]);
        return id;
      });
    const found = [];
    for (const id of ["a", "b", "c", "d", "e", "f"]) found.push(await execute(id, 50));
    await step.sleep("nap", "1s");
    found.push(...(await Promise.all([execute("left", 300), execute("right", 300)])));
    for (const id of ["x", "y", "last"]) found.push(await execute(id, 20));
    return found;
  },
);

const app = express();
app.use(express.json());
app.use((request, _, next) => {
  const { ctx, steps } = request.body ?? {};
  if (ctx) note("told", ctx.run_id, Object.keys(steps));
  next();
});
app.use("/api/inngest", serve({ client, functions: [work] }));
app.listen(Number(process.env.PORT), "127.0.0.1");
