// The functions of `python -m benchmarks http`: 0, 1, 5 and 20 steps, on the unmodified SDK.
// node bench.mjs PORT, with INNGEST_DEV set to the ingress.
import express from "express";
import { Inngest } from "inngest";
import { serve } from "inngest/express";

const client = new Inngest({ id: "bench-js" });

const functionOf = (size) =>
  client.createFunction(
    { id: `steps-${size}`, retries: 3, triggers: [{ event: `bench-js/steps-${size}` }] },
    async ({ step }) => {
      let total = 0;
      for (let number = 0; number < size; number++) {
        const result = await step.run(`step-${number}`, () => ({ number }));
        total += result.number;
      }
      return total;
    },
  );

const app = express();
app.use(express.json());
app.use("/api/inngest", serve({ client, functions: [0, 1, 5, 20].map(functionOf) }));
app.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
process.stdin.resume();
process.stdin.on("end", () => process.exit());
