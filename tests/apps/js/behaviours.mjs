// An app on the official SDK with a function for each behaviour that is tested; each is triggered
// by the event `js/<its id>`. PORT names its port.
import express from "express";
import { Inngest, NonRetriableError, RetryAfterError, referenceFunction } from "inngest";
import { createDefer } from "inngest/experimental";
import { serve } from "inngest/express";
import { bodies, quiet, recorded } from "./recording.mjs";

const { PORT } = process.env;
const ORIGIN = `http://127.0.0.1:${PORT}`;
const SECRET = "sk-very-secret";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const client = new Inngest({ id: "js", logger: quiet });
const functions = [];

function fn(id, options, handler, of = { client, functions }) {
  const { only, ...given } = options;
  const triggers = only ?? [{ event: `js/${id}` }];
  const made = of.client.createFunction({ id, triggers, ...given }, (context) => {
    const { step, runId } = context;
    const run = (name, body = () => name) =>
      step.run(name, async () => {
        bodies.push({ run: runId, name, attempt: context.attempt });
        return await body();
      });
    return handler({ ...context, run });
  });
  of.functions.push(made);
  return made;
}

// Steps one after another.

const numbers = async ({ run, event }) => {
  const results = [];
  for (let n = 0; n < event.data.steps; n++) results.push(await run("step", () => n));
  return results;
};
fn("nothing", {}, () => {});
fn("numbers", {}, numbers);
fn("classic", { checkpointing: false }, numbers);
fn("buffered", { checkpointing: { bufferedSteps: 3 } }, numbers);
fn("short", { checkpointing: { maxRuntime: "1s" } }, async ({ run, event }) => {
  const results = [];
  for (let n = 0; n < event.data.steps; n++) {
    results.push(await run("step", () => pause(400).then(() => n)));
  }
  return results;
});
const charging = async ({ run, step, runId, attempt }) => {
  const before = await run("before");
  const charged = await step.run(
    "charge",
    (amount, currency) => {
      bodies.push({ run: runId, name: "charge", attempt });
      if (amount < 0) throw new NonRetriableError(`can't charge ${amount}`);
      return `${amount} ${currency}`;
    },
    -1,
    "EUR",
  );
  await step.sleep("nap", "1s");
  return [before, charged, await run("after")];
};
fn("charging", { retries: 0 }, charging);
fn("charging-classic", { retries: 0, checkpointing: false }, charging);
fn("texts", {}, async ({ run, event }) => {
  let size = 0;
  for (let n = 0; n < event.data.steps; n++) {
    size += (await run("step", () => "x".repeat(event.data.size))).length;
  }
  return size;
});
fn("texts-then-sleep", {}, async ({ run, step, event }) => {
  const texts = [];
  for (let n = 0; n < event.data.steps; n++) {
    texts.push(await run("step", () => String(n).repeat(event.data.size)));
  }
  await step.sleep("sleep", "1s");
  const size = await run("sum", () => texts.reduce((sum, text) => sum + text.length, 0));
  return [size, event.data.note.length];
});
fn("too-large", { retries: 1 }, async ({ run, event }) => {
  const before = await run("before");
  try {
    await run("large", () => "x".repeat(event.data.size));
    return "accepted";
  } catch (error) {
    return [before, error.name, error.message, await run("after")];
  }
});

// Parallel steps.

const parallel = async ({ run }) => {
  const both = await Promise.all([run("p"), run("q", () => pause(300).then(() => "q"))]);
  return [...both, await run("r"), await run("s")];
};
fn("parallel", {}, parallel);
fn("parallel-1", { optimizeParallelism: false }, parallel);
fn("branches", {}, async ({ run }) => {
  const branch = async (name) => [await run(`${name}1`), await run(`${name}2`)];
  return await Promise.all([branch("a"), branch("b")]);
});
fn("promise-race", {}, async ({ run }) => {
  const first = await Promise.race([run("slow", () => pause(1500).then(() => "slow")), run("p")]);
  return [first, await run("after")];
});
const slowly = async (run, name) => {
  await pause(2000);
  bodies.push({ run, name: `${name} over`, attempt: 0 });
};
fn("race", {}, async ({ run, group, runId }) => {
  const first = await group.parallel(() =>
    Promise.race([run("slow", () => slowly(runId, "slow")), run("quick")]),
  );
  return [first, await run("after"), await run("at last")];
});
fn("race-with-waits", {}, async ({ run, step, group, runId }) => {
  const won = (promise, name) => promise.then(() => name);
  const first = await group.parallel(() =>
    Promise.race([
      won(step.waitForEvent("wait", { event: "js/never", timeout: "3s" }), "event"),
      won(step.sleep("sleep", "1s"), "sleep"),
      won(run("slow", () => pause(1500).then(() => slowly(runId, "slow"))), "step"),
    ]),
  );
  return [first, await run("after"), await run("at last")];
});
fn("race-branches", {}, async ({ run, group, runId }) => {
  const branch = async (name, body) => [await run(`${name}1`, body), await run(`${name}2`)];
  const slow = () => slowly(runId, "b1").then(() => "b1");
  return await group.parallel(() => Promise.all([branch("a"), branch("b", slow)]));
});
fn("one-fails", { retries: 0 }, async ({ run }) => {
  const fails = run("fails", () => {
    throw new Error("boom");
  });
  const settled = await Promise.allSettled([run("p"), fails]);
  return settled.map(({ value, reason }) => value ?? reason.message);
});
fn("retries-beside", { retries: 2 }, async ({ run, attempt }) => {
  const flaky = run("flaky", () => (attempt < 2 ? failing() : "flaky"));
  const both = await Promise.all([flaky, run("p")]);
  return [...both, await run("after")];
});
fn("many-at-once", {}, async ({ run, event }) => {
  const steps = Array.from({ length: event.data.steps }, (_, n) => run(`step ${n}`, () => n));
  return (await Promise.all(steps)).reduce((sum, n) => sum + n, 0);
});
fn("experiment", {}, async ({ run, group }) => {
  const { result, variant } = await group.experiment("experiment", {
    variants: { old: () => run("old"), new: () => run("new") },
    select: Object.assign(() => "new", { __experimentConfig: { strategy: "custom" } }),
  });
  return [result, variant];
});
fn("mixed", {}, async ({ run, step }) => {
  const [text, , answer] = await Promise.all([
    run("p"),
    step.sleep("sleep", "1s"),
    step.waitForEvent("wait", { event: "js/never", timeout: "1s" }),
  ]);
  return [text, answer];
});

// Waits.

fn("sleeps", {}, async ({ run, step }) => {
  const before = await run("before", () => Date.now());
  await step.sleep("sleep", 1000);
  const until = await run("until", () => new Date(Date.now() + 1500).toISOString());
  await step.sleepUntil("sleep until", new Date(until));
  const after = await run("after", () => Date.now());
  return [after - before, after >= Date.parse(until)];
});
fn("waits", {}, async ({ step, event }) => {
  const found = await step.waitForEvent("match", {
    event: "js/answer",
    match: "data.key",
    timeout: "1m",
  });
  const other = await step.waitForEvent("if", {
    event: "js/answer",
    if: `async.data.key == event.data.key && async.data.n > ${found.data.n}`,
    timeout: "1m",
  });
  const missed = await step.waitForEvent("miss", { event: "js/never", timeout: "1s" });
  return { found: found.data, name: found.name, later: other.data.n > found.data.n, missed };
});
fn("waits-for-signal", {}, async ({ step, event }) => {
  const { key } = event.data;
  const found = await step.waitForSignal("signal", { signal: key, timeout: "1m" });
  const missed = await step.waitForSignal("miss", { signal: `${key}-never`, timeout: "1s" });
  return [found, missed];
});
fn("signals", {}, async ({ step, event }) => {
  const { key, data } = event.data;
  return await step.sendSignal("send", { signal: key, data });
});
fn("sends", {}, async ({ step, event, runId }) => {
  const { ids } = await step.sendEvent("send", [
    { name: "js/got", data: { n: 1, from: runId } },
    { name: "js/got", data: { n: 2, from: runId } },
  ]);
  return ids;
});
fn("got", {}, ({ event }) => event.data.n);

// Invocations.

const invoked = fn("invoked", { only: [], retries: 0 }, async ({ run, event }) => {
  if (event.data.fails) throw new NonRetriableError("not today");
  if (event.data.takes) await run("takes", () => pause(event.data.takes));
  return { got: await run("double", () => event.data.n * 2), name: event.name };
});
fn("invokes", {}, async ({ step }) => {
  const result = await step.invoke("invoke", { function: invoked, data: { n: 21 } });
  let failure = null;
  try {
    await step.invoke("fails", { function: invoked, data: { fails: true } });
  } catch (error) {
    failure = error.message;
  }
  let late = null;
  try {
    await step.invoke("late", { function: invoked, data: { n: 1, takes: 5000 }, timeout: "1s" });
  } catch (error) {
    late = error.name;
  }
  return { result, failure, late };
});
fn("invokes-native", {}, async ({ step, event }) => {
  const native = referenceFunction({ appId: "native", functionId: "native" });
  return await step.invoke("native", { function: native, data: event.data });
});
fn("invoked-by-native", { only: [] }, async ({ run, event }) => [await run("a"), event.data.n]);
fn("both", { only: [{ event: "both/go" }] }, ({ event }) => `js ${event.data.n}`);
const shared = { limit: 2, key: "event.data.key", scope: "account" };
fn("shared", { only: [{ event: "both/shared" }], concurrency: [shared] }, async ({ run }) =>
  run("span", async () => {
    const began = Date.now();
    await pause(250);
    return [began, Date.now()];
  }),
);

// Errors. `attempt` is recorded with each body.

const failing = () => {
  throw new Error("boom");
};
const attempts = async ({ run, attempt, runId }) => {
  await run("good");
  try {
    await run("bad", failing);
  } catch (error) {
    bodies.push({ run: runId, name: "caught", attempt });
    return [error.name, error.message, await run("after")];
  }
};
fn("attempts", { retries: 2 }, attempts);
fn("attempts-classic", { retries: 2, checkpointing: false }, attempts);
fn("attempts-after-parallel", { retries: 2 }, async (context) => {
  const { run, step } = context;
  await Promise.all([run("one"), run("two"), step.sleep("nap", "1s")]);
  return await attempts(context);
});
fn("recovers", { retries: 3 }, async ({ run, attempt, maxAttempts }) => {
  const text = await run("second time", () => (attempt < 1 ? failing() : "good"));
  if (attempt < 2) throw new Error("not yet");
  return [text, attempt, maxAttempts];
});
fn("handler-fails", { retries: 2 }, async ({ run, attempt, runId }) => {
  bodies.push({ run: runId, name: "handler", attempt });
  await run("step");
  throw new TypeError("no");
});
fn("never-again", { retries: 3 }, async ({ runId, attempt, event }) => {
  bodies.push({ run: runId, name: "handler", attempt });
  throw new NonRetriableError("no way", { cause: new Error("the cause") });
});
fn("step-never-again", { retries: 3 }, async ({ run }) => {
  await run("fails", () => {
    throw new NonRetriableError("no way");
  });
});
fn("later", { retries: 3 }, async ({ run, attempt }) => {
  const times = await run("times", () => {
    if (attempt < 1) throw new RetryAfterError("busy", "1s");
    return attempt;
  });
  return times;
});
fn(
  "with-on-failure",
  {
    retries: 1,
    onFailure: async ({ event, error, step, runId }) => {
      const seen = await step.run("seen", () => event.data);
      failures.push({ run: runId, name: event.name, data: seen, error: error.message });
    },
  },
  async ({ run }) => run("fails", failing),
);
const failures = [];

// Half of a character, as in a text that was cut.

const HALF = "\u{1f600}".slice(0, 1);
fn("half", { retries: 0 }, async ({ run, step, event }) => {
  const value = await run(`half ${HALF}`, () => `half ${HALF}`);
  let failure = null;
  try {
    await run("fails", () => {
      throw new Error(`half ${HALF}`);
    });
  } catch (error) {
    failure = error.message;
  }
  await step.sendEvent(`send ${HALF}`, { name: "js/got", data: { n: `half ${HALF}` } });
  await Promise.all([step.sleep(`sleep ${HALF}`, "1s"), run(`beside ${HALF}`)]);
  if (event.data.fails) throw new Error(`at last ${HALF}`);
  return [value, failure, { [HALF]: 1 }];
});
fn("deep", { retries: 0 }, async ({ run, event }) => {
  let deep = 1;
  for (let n = 0; n < event.data.levels; n++) deep = [deep];
  return await run("deep", () => deep);
});
fn("odd", {}, async ({ run }) => {
  const value = { nan: NaN, big: 2 ** 70, tiny: 5e-324, date: new Date(0), zero: -0 };
  return [await run("a", () => value), await run("b", () => undefined), await run("c", () => null)];
});

// Requests that are left to the server.

fn("fetches", { retries: 0 }, async ({ step }) => {
  const answer = await step.fetch(`${ORIGIN}/echo?q=1`, {
    method: "POST",
    headers: { "content-type": "text/plain", "x-mine": "1" },
    body: "hello",
  });
  const [refused, again] = await Promise.all([
    step.fetch(`${ORIGIN}/refuses`),
    step.fetch(`${ORIGIN}/refuses`),
  ]);
  const texts = [await refused.text(), await again.text()];
  return [answer.status, await answer.json(), refused.status, again.status, ...texts];
});
fn("infers", { retries: 1 }, async ({ run, step }) => {
  const model = step.ai.models.openai({ model: "m", apiKey: SECRET, baseUrl: `${ORIGIN}/v1/` });
  const body = { messages: [{ role: "user", content: "hi" }] };
  await run("before");
  const one = await step.ai.infer("one", { model, body });
  const [two, text] = await Promise.all([step.ai.infer("two", { model, body }), run("beside")]);
  let failure = null;
  try {
    const bad = { messages: [{ role: "user", content: "fail" }] };
    await step.ai.infer("fails", { model, body: bad });
  } catch (error) {
    failure = error.name;
  }
  return [one.choices[0].message.content, two.choices[0].message.content, text, failure];
});
fn("infers-at-last", { retries: 2 }, async ({ run, step, runId }) => {
  const model = step.ai.models.openai({ model: "m", apiKey: SECRET, baseUrl: `${ORIGIN}/v1/` });
  const flaky = { messages: [{ role: "user", content: `flaky ${runId}` }] };
  const [answer] = await Promise.all([
    step.ai.infer("infer", { model, body: flaky }),
    run("beside"),
  ]);
  const again = { messages: [{ role: "user", content: `flaky again ${runId}` }] };
  const alone = await step.ai.infer("alone", { model, body: again });
  return [answer.choices.length, alone.choices.length];
});
fn("wraps", {}, ({ step }) => step.ai.wrap("wrap", async (given) => given.n + 1, { n: 1 }));

// Triggers.

fn("scheduled", { only: [{ cron: "0 0 1 1 *" }] }, ({ event }) => [event.name, event.data.cron]);
fn("wildcard", { only: [{ event: "js/wild.*" }] }, ({ event }) => event.name);
fn("filtered", { only: [{ event: "js/filtered", if: "event.data.n > 1" }] }, () => "ran");
fn("one-at-a-time", { singleton: { mode: "skip", key: "event.data.key" } }, async ({ step }) => {
  await step.sleep("sleep", "2s");
});
fn("late", { timeouts: { finish: "2s" } }, async ({ run }) => run("slow", () => pause(60_000)));
fn("batch", { batchEvents: { maxSize: 3, timeout: "30s" } }, ({ events }) =>
  events.map((event) => event.data.n),
);
fn("cancelled", { cancelOn: [{ event: "js/cancel", match: "data.key" }] }, async ({ step }) => {
  await step.sleep("sleep", "1h");
});
const deferred = createDefer(client, { id: "deferred" }, async () => "deferred");
functions.push(deferred);
fn("defers", {}, async ({ run, defer }) => {
  defer("later", { function: deferred, data: { n: 1 } });
  return await run("a");
});

// Another way to serve.

const streaming = { client: new Inngest({ id: "streaming", logger: quiet }), functions: [] };
fn(
  "streaming",
  { retries: 1 },
  async ({ run, step }) => {
    const first = await run("a", () => pause(200).then(() => "a"));
    await step.sleep("sleep", "1s");
    try {
      await run("fails", failing);
    } catch (error) {
      return [first, error.message];
    }
  },
  streaming,
);

const app = recorded();
app.use("/api/inngest", serve({ client, functions }));
app.use("/streaming", serve({ ...streaming, streaming: true }));
app.get("/failures", (_, response) => response.json(failures));
app.use("/echo", express.text(), ({ method, query, headers, body }, response) =>
  response.json({ method, query, mine: headers["x-mine"], body }),
);
app.get("/refuses", (_, response) => response.status(418).send("no"));
let asked = 0;
const refusedOnce = new Set();
app.post("/v1/chat/completions", ({ headers, body }, response) => {
  if (headers.authorization !== `Bearer ${SECRET}`) return response.status(401).json({});
  if (body.messages[0].content === "fail") return response.status(500).json({ error: "broken" });
  const { content } = body.messages[0];
  if (content.startsWith("flaky") && !refusedOnce.has(content)) {
    refusedOnce.add(content);
    return response.status(503).json({});
  }
  response.json({ choices: [{ message: { role: "assistant", content: `answer ${++asked}` } }] });
});
app.listen(Number(PORT), "127.0.0.1", () => console.log("listening"));
