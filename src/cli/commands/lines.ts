/**
 * `generate` and `score`: the engine as a filter of JSON Lines.
 */
import { open, stat } from "node:fs/promises";
import { Writable } from "node:stream";
import { finished } from "node:stream/promises";
import { type Command, InvalidArgumentError } from "commander";
import { z } from "zod";
import { AtomicFile, fileError, withFileErrors } from "../../data/files.js";
import { Engine } from "../../engine/engine.js";
import type { EngineOptions } from "../../engine/engine-options.js";
import { openModelFolder } from "../../engine/model-folder.js";
import { ActError } from "../../errors.js";
import { followSignal } from "../../rollouts/abort.js";
import { engineOptions, engineSettingsSchema, loadChat } from "../../stages/models.js";
import { parseOptions } from "../../stages/options.js";
import { Tokenizer } from "../../tokens/tokenizer.js";
import { EXIT } from "../exit.js";
import { addSchemaFlags, schemaValues } from "../flags.js";
import { generateLine, type LineContext, scoreLine } from "../generate-lines.js";
import { type Answer, answerLines, openInput } from "../json-lines.js";
import type { RegisterCommand } from "../main.js";

/** Flags that give an engine its settings, shared by every command that loads a model by itself. */
export function addEngineFlags(command: Command): Command {
  command.option("--adapter <dir>", "folder of PEFT adapters to begin with");
  addSchemaFlags(command, engineSettingsSchema);
  return command;
}

/** `--seed` of commands that draw nothing: scripts may give it to all alike. */
export function addUnusedSeed(command: Command): Command {
  const integer = numberOf("an integer >= 0", z.number().int().nonnegative());
  return command.option("--seed <n>", "accepted everywhere; nothing is drawn here", integer, 0);
}

export const registerGenerate: RegisterCommand = (program, { signal }, exit) => {
  const command = program
    .command("generate")
    .description(
      'Reads {"messages"|"text"|"ids", ...settings}, writes {prompt_ids, ids, text, logprobs, finish_reason}.',
    )
    .requiredOption("--model <dir>", "model folder")
    .option("--max-new-tokens <n>", "longest completion", numberOf("an integer >= 1", z.number().int().min(1)), 256)
    .option("--temperature <t>", "0 is greedy", numberOf("a number >= 0", z.number().min(0)), 1)
    .option(
      "--top-k <k>",
      "keep the k likeliest tokens; 0: all",
      numberOf("an integer >= 0", z.number().int().min(0)),
      0,
    )
    .option("--top-p <p>", "keep the likeliest mass; 1: all", numberOf("a share in (0, 1]", z.number().gt(0).max(1)), 1)
    .option("--min-p <p>", "least share of the likeliest; 0: all", numberOf("a share", z.number().min(0).max(1)), 0)
    .option("--seed <n>", "random seed", numberOf("an integer >= 0", z.number().int().nonnegative()), 0);
  addLineFlags(addEngineFlags(command)).action(async (options: GenerateFlags) => {
    const { maxNewTokens, temperature, topK, topP, minP, seed } = options;
    const defaults = { maxNewTokens, temperature, topK, topP, minP, seed };
    await runLines(options, signal, (value, index, context) => generateLine(value, index, context, defaults));
    exit(EXIT.ok);
  });
};

export const registerScore: RegisterCommand = (program, { signal }, exit) => {
  const command = program
    .command("score")
    .description('Reads {"text"|"ids"}, writes {ids, logprobs, sum}: log-probs of every token after the first.')
    .requiredOption("--model <dir>", "model folder");
  addUnusedSeed(addLineFlags(addEngineFlags(command))).action(async (options: LineFlags) => {
    const handle = (value: unknown, _: number, context: LineContext): Promise<Answer> => scoreLine(value, context);
    await runLines(options, signal, handle, scoringDefaults);
    exit(EXIT.ok);
  });
};

/** Longest line that `score` makes room for by itself. */
const MAX_SCORED_TOKENS = 8192;

/** A line is scored in one forward pass, of which nothing is cut off: the context sets its size. */
async function scoringDefaults(model: string): Promise<EngineOptions> {
  const { config } = await openModelFolder(model);
  return { maxBatchTokens: Math.max(2, Math.min(config.native.maxPositions, MAX_SCORED_TOKENS)) };
}

interface LineFlags extends Record<string, unknown> {
  readonly model: string;
  readonly adapter?: string;
  readonly input?: string;
  readonly output?: string;
  readonly concurrency: number;
}

interface GenerateFlags extends LineFlags {
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly seed: number;
}

function addLineFlags(command: Command): Command {
  return command
    .option("--input <file>", "read from a file instead of standard input")
    .option("--output <file>", "write to a file instead of standard output")
    .option("--concurrency <n>", "lines at work at once", numberOf("an integer >= 1", z.number().int().min(1)), 128);
}

async function runLines(
  flags: LineFlags,
  signal: AbortSignal,
  handle: (value: unknown, index: number, context: LineContext) => Promise<Answer>,
  defaultsOf: (model: string) => EngineOptions | Promise<EngineOptions> = () => ({}),
): Promise<void> {
  const settings = parseOptions(engineSettingsSchema, schemaValues(engineSettingsSchema, flags), "options");
  // Opened first: a wrong path must not wait for a model to load.
  const input = await openInput(flags.input);
  const output = await openOutput(flags.output);
  try {
    const tokenizer = await Tokenizer.load(flags.model);
    const chat = await loadChat(tokenizer);
    const adapter = flags.adapter === undefined ? {} : { adapter: flags.adapter };
    const defaults = await defaultsOf(flags.model);
    const options = { ...defaults, ...engineOptions(settings), ...adapter, tokenBytes: bytesOf(tokenizer) };
    using following = followSignal(signal);
    await using policy = await Engine.load(flags.model, options, { signal });
    const context: LineContext = { policy, tokenizer, chat, signal: following.signal };
    await answerLines((value, index) => handle(value, index, context), {
      input,
      output,
      concurrency: flags.concurrency,
      signal: following.signal,
    });
    if (output !== process.stdout) {
      output.end();
      await finished(output);
    }
  } catch (cause) {
    if (output !== process.stdout) await discarded(output);
    if (signal.aborted || cause instanceof ActError || !(cause instanceof Error && "syscall" in cause)) throw cause;
    throw fileError("reading or writing", flags.input ?? flags.output ?? "the stream", cause);
  } finally {
    input.destroy();
  }
}

/** Stop strings need the bytes of tokens; a tokenizer without them only refuses lines that ask for stop strings. */
function bytesOf(tokenizer: Tokenizer): ReturnType<Tokenizer["tokenBytes"]> | null {
  try {
    return tokenizer.tokenBytes();
  } catch (cause) {
    if (cause instanceof ActError && cause.code === "TOKENIZER_NO_BYTES") return null;
    throw cause;
  }
}

/** Standard output, a device or pipe, or a file that appears when all answers are written. */
async function openOutput(path: string | undefined): Promise<Writable> {
  if (path === undefined || path === "-") return process.stdout;
  const present = await stat(path).catch(() => null);
  if (present !== null && !present.isFile() && !present.isDirectory())
    return (await withFileErrors("opening", path, () => open(path, "w"))).createWriteStream();
  const file = await AtomicFile.create(path);
  const settle = (work: Promise<void>, done: (error?: Error | null) => void): void => {
    work.then(() => done(), done);
  };
  return new Writable({
    decodeStrings: false,
    write: (chunk: string, _, done) => settle(file.write(chunk), done),
    final: (done) => settle(file.commit(), done),
    destroy: (error, done) => settle(file.discard(), () => done(error)),
  });
}

async function discarded(output: Writable): Promise<void> {
  output.destroy();
  await finished(output).catch(() => undefined);
}

/** A parser of a numeric flag. */
export function numberOf(expected: string, schema: z.ZodType<number>): (text: string) => number {
  return (text) => {
    const result = schema.safeParse(text.trim() === "" ? Number.NaN : Number(text));
    if (result.success) return result.data;
    throw new InvalidArgumentError(`Expected ${expected}, got ${JSON.stringify(text)}.`);
  };
}
