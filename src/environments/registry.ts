/**
 * Environments by name. To add one: a folder with a provider, and a line here.
 *
 * Folders are imported when they are asked for: most commands need one environment or none.
 */
import { EnvironmentError, type EnvironmentProvider } from "./environment.js";

/** Options of an environment; each folder checks its own and rejects unknown keys. */
export type EnvironmentOptions = Readonly<Record<string, unknown>>;

/** Each folder checks what it is given; its type only says what it wants. */
const as = <T>(options: EnvironmentOptions): T => options as unknown as T;

const ENVIRONMENTS: Readonly<Record<string, (options: EnvironmentOptions) => Promise<EnvironmentProvider>>> = {
  household: async (options) => (await import("./household/household.js")).householdProvider(options),
  alfworld: async (options) => (await import("./alfworld/alfworld.js")).alfworldProvider(as(options)),
  scienceworld: async (options) => (await import("./scienceworld/provider.js")).ScienceWorldProvider.open(options),
  webshop: async (options) => (await import("./webshop/webshop.js")).webshopProvider(options),
  openenv: async (options) => (await import("./openenv/provider.js")).OpenEnvProvider.open(as(options)),
  agentgym: async (options) => (await import("./agentgym/provider.js")).AgentGymProvider.open(as(options)),
};

/** Names that {@link openEnvironment} knows. */
export const environmentNames: readonly string[] = Object.keys(ENVIRONMENTS);

/**
 * A provider by name. Close it when done.
 *
 * @throws EnvironmentError `ENVIRONMENT_UNKNOWN`, `ENVIRONMENT_BAD_OPTIONS`, `ENVIRONMENT_BAD_DATA`.
 */
export async function openEnvironment(name: string, options: EnvironmentOptions = {}): Promise<EnvironmentProvider> {
  const open = ENVIRONMENTS[name];
  if (open === undefined)
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN", `There is no environment named ${JSON.stringify(name)}.`, {
      hint: `Known: ${environmentNames.join(", ")}.`,
    });
  return open(options);
}
