/** A server with ALFWorld's calls over the household environment, in a process of its own. Arguments: build folder, port. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [build, port] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(join(build, file)).href);
const { openEnvironment } = await load("environments/registry.js");
const { AgentGymServer } = await load("environments/agentgym/agentgym.js");

const provider = await openEnvironment("household", {});
const server = await AgentGymServer.start(provider, { kind: "alfworld", port: Number(port) });
process.on("SIGTERM", async () => {
  await server.close();
  process.exit(0);
});
console.log(server.url);
