// An app on the official SDK whose functions the environment names: PORT, APP_ID, FUNCTIONS (ids,
// with commas), INVALID (a rate limit's period).
import express from "express";
import { Inngest } from "inngest";
import { serve } from "inngest/express";

const { PORT, APP_ID, FUNCTIONS, INVALID } = process.env;
const client = new Inngest({ id: APP_ID });
const functions = FUNCTIONS.split(",").map((id) =>
  client.createFunction(
    {
      id,
      triggers: [{ event: `js/${id}` }],
      ...(INVALID ? { rateLimit: { limit: 1, period: INVALID } } : {}),
    },
    async () => id,
  ),
);
const app = express();
app.use(express.json());
app.use("/api/inngest", serve({ client, functions }));
app.use("/moved", serve({ client, functions }));
app.listen(Number(PORT), "127.0.0.1", () => console.log("listening"));
