/**
 * Carries out one resolved stage: opens what it needs, calls its function, closes everything again.
 */
import { basename } from "node:path";
import type { EnvironmentProvider } from "../environments/environment.js";
import { openEnvironment } from "../environments/registry.js";
import { ActError } from "../errors.js";
import type { ObjectiveSettings } from "../objectives/objective.js";
import { resolveObjective } from "../objectives/registry.js";
import { assess, assessSchema } from "../stages/assess.js";
import { collect, collectSchema } from "../stages/collect.js";
import { evaluate, evaluateSchema } from "../stages/evaluate.js";
import { imitate, imitateSchema } from "../stages/imitate.js";
import { importExperts, importSchema } from "../stages/import.js";
import { judge, judgeSchema } from "../stages/judge.js";
import { type LoadedAgent, loadAgent } from "../stages/models.js";
import { pair, pairSchema } from "../stages/pair.js";
import type { Reference } from "../stages/policy-step.js";
import { reinforceEpisodes, reinforceEpisodesSchema } from "../stages/reinforce-episodes.js";
import { reinforceStates, reinforceStatesSchema } from "../stages/reinforce-states.js";
import { select, selectSchema } from "../stages/select.js";
import type { StageContext } from "../stages/stage.js";
import type { TrainingResult } from "../stages/training-loop.js";
import type { ResolvedStage, StageInput, StageInputs } from "./resolve.js";

/** Where a stage runs. */
export interface ExecutionEnvironment {
  readonly context: StageContext;
  readonly inputs: StageInputs;
  readonly onNote?: ((text: string) => void) | undefined;
}

/** What a stage leaves. */
export interface StageOutcome {
  /** Counts and figures, as JSON. */
  readonly result: unknown;
  /** Output from the stage's folder: what other stages refer to. Null where nothing may. */
  readonly output: string | null;
}

export async function executeStage(stage: ResolvedStage, environment: ExecutionEnvironment): Promise<StageOutcome> {
  const { context } = environment;
  const path = (input: string): string => inputOf(environment.inputs, input).path;
  switch (stage.kind) {
    case "collect":
      return withProvider(stage, async (provider) =>
        filed(await collect(provider, collectSchema.parse(stage.options), context)),
      );
    case "import":
      if (stage.environment === null) return filed(await importExperts(importSchema.parse(stage.options), context));
      return withProvider(stage, async (provider) =>
        filed(await importExperts(importSchema.parse(stage.options), context, provider)),
      );
    case "select":
      return filed(await select(path("expert"), selectSchema.parse(stage.options), context));
    case "pair":
      return withAgent(stage, environment, false, async (agent) =>
        filed(await pair(agent, agent.identity, path("expert"), pairSchema.parse(stage.options), context)),
      );
    case "assess":
      return withAgent(stage, environment, false, async (agent) => {
        const options = assessSchema.parse(stage.options);
        const { file, result, promptTooLong } = await assess(agent, agent.identity, path("pairs"), options, context);
        return { output: basename(file), result: { ...result, promptTooLong } };
      });
    case "evaluate":
      return withAgent(stage, environment, false, (agent) =>
        withProvider(stage, async (provider) => {
          const { panels } = await evaluate(
            agent,
            agent.identity,
            provider,
            evaluateSchema.parse(stage.options),
            context,
          );
          return { output: null, result: Object.fromEntries(Object.entries(panels).map(([k, p]) => [k, p.result])) };
        }),
      );
    case "imitate":
      return withAgent(stage, environment, true, async (agent) =>
        trained(await imitate(agent, path("expert"), imitateSchema.parse(stage.options), context)),
      );
    case "judge":
      return withReference(stage, environment, async (agent, reference) =>
        trained(await judge(agent, path("pairs"), judgeSchema.parse(stage.options), context, reference)),
      );
    case "reinforce-states":
      return withReference(stage, environment, async (agent, reference) =>
        trained(
          await reinforceStates(agent, path("expert"), reinforceStatesSchema.parse(stage.options), context, reference),
        ),
      );
    case "reinforce-episodes":
      return withReference(stage, environment, (agent, reference) =>
        withProvider(stage, async (provider) => {
          const options = reinforceEpisodesSchema.parse(stage.options);
          return trained(await reinforceEpisodes(agent, provider, options, context, reference));
        }),
      );
  }
}

function inputOf(inputs: StageInputs, name: string): StageInput {
  const input = inputs[name];
  if (input === undefined) throw new ActError("CONFIG_MISSING_KEY", `The stage has no \`${name}\`.`);
  return input;
}

/** The file's name is the output, the counts beside it the result. */
function filed(result: { readonly file: string }): StageOutcome {
  const { file, ...counts } = result;
  return { output: basename(file), result: counts };
}

function trained(result: TrainingResult): StageOutcome {
  return { output: basename(result.model), result: null };
}

async function withProvider<T>(stage: ResolvedStage, use: (provider: EnvironmentProvider) => Promise<T>): Promise<T> {
  if (stage.environment === null) throw new ActError("CONFIG_MISSING_KEY", "The stage has no `environment`.");
  const provider = await openEnvironment(stage.environment.name, stage.environment.options);
  try {
    return await use(provider);
  } finally {
    await provider.close();
  }
}

async function withAgent<T>(
  stage: ResolvedStage,
  { context, inputs, onNote }: ExecutionEnvironment,
  training: boolean,
  use: (agent: LoadedAgent) => Promise<T>,
): Promise<T> {
  if (stage.engine === null || stage.prompt === null)
    throw new TypeError(`A stage of kind ${stage.kind} has no model.`);
  const { path, adapter } = inputOf(inputs, "model");
  const options = { training, adapter, signal: context.signal };
  await using agent = await loadAgent(path, stage.engine, stage.prompt, options);
  const planned = agent.policy.plan.total;
  onNote?.(`${agent.policy.device}, ${mebibytes(planned)} MiB planned`);
  const result = await use(agent);
  onNote?.(`${mebibytes(agent.policy.stats().bytesPeak)} of ${mebibytes(planned)} MiB planned were held at most`);
  return result;
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}

/**
 * The agent under training and, where the objective has a KL term, its reference: the model itself without its adapters,
 * or a second engine that is never trained.
 */
async function withReference<T>(
  stage: ResolvedStage,
  environment: ExecutionEnvironment,
  use: (agent: LoadedAgent, reference: Reference | null) => Promise<T>,
): Promise<T> {
  return withAgent(stage, environment, true, async (agent) => {
    const objective = resolveObjective(stage.options.objective as ObjectiveSettings);
    if (objective.kl.coefficient === 0) return use(agent, null);
    const { inputs, context } = environment;
    const given = inputs.reference;
    const start = inputOf(inputs, "model");
    // Without its adapters the model is what it was at the start, unless it came with some.
    const fresh = stage.engine?.lora != null && start.adapter === undefined;
    if (given === undefined && fresh) return use(agent, { policy: agent.policy, adapters: false });
    if (stage.engine === null || stage.prompt === null)
      throw new TypeError("A stage without a model has no reference.");
    const { path, adapter } = given ?? start;
    const options = { training: false, adapter, signal: context.signal };
    await using frozen = await loadAgent(path, { ...stage.engine, lora: null }, stage.prompt, options);
    return await use(agent, { policy: frozen.policy, adapters: true });
  });
}
