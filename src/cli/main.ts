#!/usr/bin/env node
/**
 * `act-trainer`: reads the command's name, loads that command's module and nothing else, runs it, ends with its code.
 */
import { Command, CommanderError, type ParseOptionsResult } from "commander";
import { ActError } from "../errors.js";
import { EXIT, errorText, exitCodeOf, InterruptedError } from "./exit.js";

/** What a command gets besides its own options. */
export interface CommandContext {
  /** Aborts on Ctrl-C and SIGTERM. */
  readonly signal: AbortSignal;
}

/** Adds a command to the program; the action's number is the exit code. */
export type RegisterCommand = (program: Command, context: CommandContext, exit: (code: number) => void) => void;

interface Entry {
  readonly summary: string;
  readonly load: () => Promise<RegisterCommand>;
}

const stage = (name: string): (() => Promise<RegisterCommand>) => {
  return async () => (await import("./commands/stage.js")).registerStage(name);
};

const COMMANDS: Readonly<Record<string, Entry>> = {
  run: { summary: "run a recipe", load: async () => (await import("./commands/run.js")).registerRun },
  resume: { summary: "go on with a run", load: async () => (await import("./commands/run.js")).registerResume },
  status: { summary: "say how a run stands", load: async () => (await import("./commands/run.js")).registerStatus },
  collect: { summary: "play the expert and write its decisions", load: stage("collect") },
  import: { summary: "turn recorded episodes into expert decisions", load: stage("import") },
  select: { summary: "take some tasks of an expert file", load: stage("select") },
  pair: { summary: "sample the model's own alternatives at expert states", load: stage("pair") },
  judge: { summary: "train a model to tell the better of two actions (the ACT stage)", load: stage("judge") },
  imitate: { summary: "train a model on the expert's actions", load: stage("imitate") },
  reinforce: { summary: "train a model on rewards, at expert states or in whole episodes", load: stage("reinforce") },
  evaluate: { summary: "measure success on panels", load: stage("evaluate") },
  assess: { summary: "measure judgment on pairs, both orders", load: stage("assess") },
  generate: {
    summary: "complete prompts, one JSON object a line",
    load: async () => (await import("./commands/lines.js")).registerGenerate,
  },
  score: {
    summary: "log-probs of texts, one JSON object a line",
    load: async () => (await import("./commands/lines.js")).registerScore,
  },
  serve: {
    summary: "serve a model over HTTP, and train it on what agents play through it",
    load: async () => (await import("./commands/serve.js")).registerServe,
  },
  replay: {
    summary: "play recorded episodes against an environment and compare",
    load: async () => (await import("./commands/replay.js")).registerReplay,
  },
  plan: {
    summary: "memory a model would need",
    load: async () => (await import("./commands/plan.js")).registerPlan,
  },
  doctor: {
    summary: "check this machine",
    load: async () => (await import("./commands/doctor.js")).registerDoctor,
  },
};

/** Tells a misspelled option before a missing one, which is often the same option. */
class CommandLine extends Command {
  override createCommand(name?: string): Command {
    return new CommandLine(name);
  }
  override parseOptions(argv: string[]): ParseOptionsResult {
    const parsed = super.parseOptions(argv);
    if (parsed.unknown.some((arg) => arg.startsWith("-") && arg !== "-h" && arg !== "--help"))
      for (const option of this.options) option.makeOptionMandatory(false);
    return parsed;
  }
}

/** What standard output has failed with. */
let outputFault: NodeJS.ErrnoException | null = null;

/** Runs a command line (without node and script) and returns the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  const debug = argv.includes("--debug");
  const controller = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    // The second one does not wait for anything.
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new InterruptedError(signal));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // Whoever read our output has gone (EPIPE), or it has no room: there is no point in going on.
    outputFault ??= error;
    controller.abort(outputFault);
  });
  // Progress that no one reads is no reason to end.
  process.stderr.on("error", () => undefined);
  try {
    return await dispatch(argv, controller.signal);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    const { aborted, reason } = controller.signal;
    if (aborted && reason === outputFault) return EXIT.ok; // told at the end
    // Of an interrupted stage that could not save its last step, that is to be told too.
    const stopped = aborted && error instanceof ActError && error.cause === reason;
    process.stderr.write(`${errorText(aborted && !stopped ? reason : error, debug && !aborted)}\n`);
    return exitCodeOf(aborted ? reason : error);
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

async function dispatch(argv: readonly string[], signal: AbortSignal): Promise<number> {
  const program = new CommandLine("act-trainer");
  program
    .description("Train language-model agents from Node.js, critic first.")
    .option("--debug", "show stacks of errors")
    .version(await version(argv), "-V, --version", "show the version")
    .showHelpAfterError("(add --help for the options)")
    .showSuggestionAfterError()
    .exitOverride();
  let code: number = EXIT.ok;
  const name = argv.find((arg) => !arg.startsWith("-"));
  for (const [command, { summary, load }] of Object.entries(COMMANDS)) {
    if (command !== name) {
      program.command(command).summary(summary).description(summary);
      continue;
    }
    const register = await load();
    register(program, { signal }, (result) => {
      code = result;
    });
    const added = program.commands.at(-1);
    added?.summary(summary).option("--debug", "show stacks of errors").exitOverride();
  }
  if (name !== undefined && COMMANDS[name] === undefined) {
    const { nearest } = await import("../schema-issues.js");
    const near = nearest(name, Object.keys(COMMANDS));
    throw new ActError("CLI_UNKNOWN_COMMAND", `There is no command \`${name}\`.`, {
      hint: near === null ? "See `act-trainer --help`." : `Did you mean \`${near}\`?`,
    });
  }
  if (name === undefined && argv.length === 0) {
    program.outputHelp();
    return EXIT.usage;
  }
  await program.parseAsync([...argv], { from: "user" });
  return code;
}

async function version(argv: readonly string[]): Promise<string> {
  if (!argv.includes("-V") && !argv.includes("--version")) return "";
  return (await import("../runs/machine.js")).packageVersion();
}

/** Output that is still on its way must arrive before the process ends. */
async function flush(): Promise<void> {
  for (const stream of [process.stdout, process.stderr])
    await new Promise<void>((resolve) => {
      stream.write("", () => resolve());
    });
}

main(process.argv.slice(2)).then(async (code) => {
  await flush();
  if (outputFault === null || outputFault.code === "EPIPE") process.exit(code);
  const { fileError } = await import("../data/files.js");
  const fault = fileError("writing", "standard output", outputFault);
  process.stderr.write(`${errorText(fault, process.argv.includes("--debug"))}\n`, () => process.exit(EXIT.file));
});
