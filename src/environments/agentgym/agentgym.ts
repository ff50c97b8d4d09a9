/** AgentGym: a client of its servers, and a server of our environments. */
export type { AgentGymKind } from "./dialects.js";
export { type AgentGymOptions, AgentGymProvider } from "./provider.js";
export { AgentGymServer, type AgentGymServerOptions } from "./server.js";
