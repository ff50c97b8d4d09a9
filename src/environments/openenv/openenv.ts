/** OpenEnv: a client of its servers, and a server of our environments. */
export { type OpenEnvOptions, OpenEnvProvider } from "./provider.js";
export {
  type ServedEnvironment,
  type ServedObservation,
  type ServedSchema,
  type ServedSession,
  type ServeOptions,
  serveProvider,
} from "./served.js";
export { OpenEnvServer, type OpenEnvServerOptions } from "./server.js";
