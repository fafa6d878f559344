// An Express app that tells which calls it got (GET /calls), and which bodies of steps it executed
// (GET /bodies).
import express from "express";

const calls = [];
export const bodies = [];

const nothing = () => {};
export const quiet = { info: nothing, warn: nothing, error: nothing, debug: nothing };

export function recorded() {
  const app = express();
  app.use(express.json({ limit: "6mb" }));
  app.use(({ method, query, body }, _, next) => {
    if (method === "POST" && query.stepId) {
      const { ctx, version } = body;
      const call = { run: ctx.run_id, step: query.stepId, attempt: ctx.attempt, version };
      const planOnly = ctx.disable_immediate_execution;
      calls.push({ ...call, useApi: ctx.use_api, planOnly });
    }
    next();
  });
  const of = (all) => (request, response) =>
    response.json(all.filter(({ run }) => run === request.query.run));
  app.get("/calls", of(calls));
  app.get("/bodies", of(bodies));
  return app;
}
