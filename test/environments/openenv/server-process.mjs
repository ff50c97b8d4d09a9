/** A server of the household environment in a process of its own; prints its address. Arguments: build folder, port. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [build, port] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(join(build, file)).href);
const { openEnvironment } = await load("environments/registry.js");
const { OpenEnvServer, serveProvider } = await load("environments/openenv/openenv.js");

const provider = await openEnvironment("household", {});
const server = await OpenEnvServer.start(await serveProvider(provider, { expert: true }), {
  port: Number(port),
  maxSessions: 4,
});
process.on("SIGTERM", async () => {
  await server.close();
  process.exit(0);
});
console.log(server.url);
