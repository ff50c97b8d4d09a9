/**
 * Environments by name. To add one: a folder with a provider, and a line here.
 *
 * Folders are imported when they are asked for: most commands need one environment or none.
 */
import { choiceHint } from "../schema-issues.js";
import { EnvironmentError, type EnvironmentProvider } from "./environment.js";

/** Options of an environment; each folder checks its own and rejects unknown keys. */
export type EnvironmentOptions = Readonly<Record<string, unknown>>;

/** Each folder checks what it is given; its type only says what it wants. */
const as = <T>(options: EnvironmentOptions): T => options as unknown as T;

interface Entry {
  open(options: EnvironmentOptions): Promise<EnvironmentProvider>;
  /** Where opening loads much or asks a server: the names of the panels without that. */
  panelNames?(options: EnvironmentOptions): Promise<readonly string[]>;
}

const ENVIRONMENTS: Readonly<Record<string, Entry>> = {
  household: { open: async (options) => (await import("./household/household.js")).householdProvider(options) },
  alfworld: { open: async (options) => (await import("./alfworld/alfworld.js")).alfworldProvider(as(options)) },
  scienceworld: {
    open: async (options) => (await import("./scienceworld/provider.js")).ScienceWorldProvider.open(options),
  },
  webshop: {
    open: async (options) => (await import("./webshop/webshop.js")).webshopProvider(options),
    panelNames: async (options) => (await import("./webshop/webshop.js")).webshopPanelNames(options),
  },
  openenv: {
    open: async (options) => (await import("./openenv/provider.js")).OpenEnvProvider.open(as(options)),
    panelNames: async (options) => (await import("./openenv/provider.js")).OpenEnvProvider.panelNamesOf(as(options)),
  },
  agentgym: { open: async (options) => (await import("./agentgym/provider.js")).AgentGymProvider.open(as(options)) },
};

/** Names that {@link openEnvironment} knows. */
export const environmentNames: readonly string[] = Object.keys(ENVIRONMENTS);

/**
 * A provider by name. Close it when done.
 *
 * @throws EnvironmentError `ENVIRONMENT_UNKNOWN`, `ENVIRONMENT_BAD_OPTIONS`, `ENVIRONMENT_BAD_DATA`.
 */
export async function openEnvironment(name: string, options: EnvironmentOptions = {}): Promise<EnvironmentProvider> {
  return entryOf(name).open(options);
}

/**
 * The names of an environment's panels, its options checked as {@link openEnvironment} would. Loads no more than it has
 * to, starts no simulator, asks no server.
 *
 * @throws EnvironmentError `ENVIRONMENT_UNKNOWN`, `ENVIRONMENT_BAD_OPTIONS`, `ENVIRONMENT_BAD_DATA`.
 */
export async function environmentPanelNames(name: string, options: EnvironmentOptions): Promise<readonly string[]> {
  const entry = entryOf(name);
  if (entry.panelNames !== undefined) return entry.panelNames(options);
  const provider = await entry.open(options);
  await provider.close();
  return provider.panelNames;
}

function entryOf(name: string): Entry {
  const entry = Object.hasOwn(ENVIRONMENTS, name) ? ENVIRONMENTS[name] : undefined;
  if (entry !== undefined) return entry;
  throw new EnvironmentError("ENVIRONMENT_UNKNOWN", `There is no environment named ${JSON.stringify(name)}.`, {
    hint: choiceHint(name, environmentNames, "Known"),
  });
}
