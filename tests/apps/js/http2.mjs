// An app behind TLS that offers HTTP/2: `PORT`, `CERTIFICATE` (a PEM file with the key, too).
// It prints the version of HTTP and the connection of each call.
import { createSecureServer } from "node:http2";
import { readFileSync } from "node:fs";
import { Inngest } from "inngest";
import { serve } from "inngest/node";

const client = new Inngest({ id: "http2" });
const steps = client.createFunction(
  { id: "steps", triggers: [{ event: "http2/steps" }] },
  async ({ step, event }) => {
    const first = await step.run("first", () => event.data.number + 1);
    await step.sleep("nap", 1);
    return await step.run("second", () => first * 2);
  },
);
const handler = serve({ client, functions: [steps] });
const pem = readFileSync(process.env.CERTIFICATE);
const server = createSecureServer({ allowHTTP1: true, key: pem, cert: pem }, (request, response) => {
  const { httpVersion, method, socket } = request;
  if (method === "POST") console.log(`called by HTTP/${httpVersion} from port ${socket.remotePort}`);
  handler(request, response);
});
server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log("ready"));
