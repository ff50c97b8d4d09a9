/**
 * `replay <environment>`: recorded episodes played again, step by step.
 */
import { writeFileAtomic } from "../../data/files.js";
import type { ReplayReport } from "../../environments/replay.js";
import { EXIT } from "../exit.js";
import type { RegisterCommand } from "../main.js";
import { Progress } from "../progress.js";

interface ReplayFlags {
  readonly json?: string;
  readonly show: string;
  readonly [key: string]: string | undefined;
}

/** Mismatches printed unless the flag says otherwise. */
const SHOWN = "10";

export const registerReplay: RegisterCommand = (program, { signal }, exit) => {
  const replay = program
    .command("replay")
    .description("Plays recorded episodes against an environment; exit status 1 on any mismatch.");
  const add = (
    name: string,
    flags: readonly (readonly [string, string])[],
    play: (options: ReplayFlags, onProgress: (episodes: number) => void) => Promise<ReplayReport>,
  ): void => {
    const command = replay.command(name).exitOverride();
    for (const [flag, text] of flags) command.requiredOption(flag, text);
    command
      .option("--json <file>", "write the whole report here")
      .option("--show <n>", "mismatches to print", SHOWN)
      .option("--debug", "show stacks of errors")
      .action(async (options: ReplayFlags) => {
        const progress = new Progress();
        progress.start(`replay ${name}`, null);
        const report = await play(options, (episodes) => progress.update(episodes, "episodes"));
        progress.end();
        if (options.json !== undefined) await writeFileAtomic(options.json, `${JSON.stringify(report, null, 2)}\n`);
        process.stdout.write(`${textOf(report, Number(options.show))}\n`);
        exit(report.mismatches.length === 0 && report.exact === report.steps ? EXIT.ok : EXIT.failed);
      });
  };
  const text = (value: string | undefined): string => value ?? "";
  add(
    "alfworld",
    [
      ["--games <dir>", "folder that the game paths of the traces start from"],
      ["--traces <file>", "recorded traces, JSON lines, plain or gzipped"],
    ],
    async ({ games, traces }, onProgress) => {
      const { replayAlfworld } = await import("../../environments/alfworld/replay.js");
      return replayAlfworld({ games: text(games), traces: text(traces), onProgress, signal });
    },
  );
  add(
    "webshop",
    [
      ["--data <dir>", "folder with products, attributes, instructions and recorded nouns"],
      ["--sessions <file>", "recorded sessions, JSON lines, plain or gzipped"],
    ],
    async ({ data, sessions }) => {
      const { replayWebShop } = await import("../../environments/webshop/replay.js");
      return replayWebShop({ data: text(data), sessions: text(sessions), signal });
    },
  );
  add(
    "scienceworld",
    [
      ["--jar <file>", "scienceworld.jar"],
      ["--episodes <file>", "recorded episodes, JSON lines, plain or gzipped"],
    ],
    async ({ jar, episodes }, onProgress) => {
      const { replayScienceWorld } = await import("../../environments/scienceworld/replay.js");
      return replayScienceWorld({ jar: text(jar), episodes: text(episodes), onProgress, signal });
    },
  );
};

function textOf(report: ReplayReport, show: number): string {
  const { episodes, steps, exact, mismatches } = report;
  const lines = mismatches
    .slice(0, show)
    .map((m) => `${m.episode}, step ${m.step}, ${m.field}: expected ${short(m.expected)}, got ${short(m.got)}`);
  const more = mismatches.length > show ? [`... and ${mismatches.length - show} more`] : [];
  return [...lines, ...more, `${exact} of ${steps} steps exact in ${episodes} episodes`].join("\n");
}

function short(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}
