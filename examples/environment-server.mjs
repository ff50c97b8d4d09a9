#!/usr/bin/env node
/**
 * An environment of one's own in a process of its own, served by the OpenEnv protocol:
 *
 *     node examples/environment-server.mjs [port]
 *
 * prints its address. Any OpenEnv client can play it; a recipe does with
 *
 *     environments:
 *       guessing: { name: openenv, url: "http://127.0.0.1:8000", panels: { all: ["number/1", "number/2"] } }
 */
import { OpenEnvServer, serveProvider } from "act-trainer/environments/openenv";
import { guessing } from "./custom-environment.mjs";

const port = Number(process.argv[2] ?? 8000);
const server = await OpenEnvServer.start(await serveProvider(guessing, { expert: true }), { port, maxSessions: 8 });
console.log(server.url);
process.once("SIGTERM", () => server.close());
