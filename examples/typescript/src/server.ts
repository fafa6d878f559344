import express from "express";
import { serve } from "inngest/express";
import { inngest } from "./client.js";
import * as flowControl from "./flow-control.js";
import * as orders from "./orders.js";
import * as patterns from "./patterns.js";

const functions = [orders, patterns, flowControl].flatMap((module) => Object.values(module));

const app = express();
app.use(express.json({ limit: "5mb" }));
app.use("/api/inngest", serve({ client: inngest, functions }));

const port = Number(process.env.PORT ?? 3000);
app.listen(port, () => {
  console.log(`The app listens on http://localhost:${port}/api/inngest`);
});
