/**
 * `doctor`: what this machine has, and what it lacks.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { loadAddon } from "../../engine/addon.js";
import { machineDescription, packageCommit, packageVersion } from "../../runs/machine.js";
import { EXIT } from "../exit.js";
import type { RegisterCommand } from "../main.js";

interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** Without it nothing works; else only what `text` says. */
  readonly required: boolean;
  readonly text: string;
}

export const registerDoctor: RegisterCommand = (program, _context, exit) => {
  program
    .command("doctor")
    .description(
      "Checks Node.js, the native addon, the GPU, the tokenizers and Java; exit status 1 if something required fails.",
    )
    .option("--json", "print JSON")
    .action(async (options: { json?: true }) => {
      const checks = [node(), addon(), gpu(), await tokenizers(), await java()];
      const machine = { version: await packageVersion(), commit: await packageCommit(), machine: machineDescription() };
      if (options.json) process.stdout.write(`${JSON.stringify({ ...machine, checks })}\n`);
      else {
        process.stdout.write(`act-trainer ${machine.version} (${machine.commit})\n${machine.machine}\n\n`);
        for (const check of checks)
          process.stdout.write(
            `${check.ok ? "ok      " : check.required ? "missing " : "absent  "} ${check.name}: ${check.text}\n`,
          );
      }
      exit(checks.every((check) => check.ok || !check.required) ? EXIT.ok : EXIT.failed);
    });
};

function node(): Check {
  const major = Number(process.versions.node.split(".")[0]);
  return { name: "Node.js", ok: major >= 20, required: true, text: `${process.version} (20 or later is needed)` };
}

function addon(): Check {
  try {
    const sets = loadAddon().instructionSets();
    return { name: "engine", ok: true, required: true, text: `instruction sets ${sets.join(", ")}` };
  } catch (cause) {
    return { name: "engine", ok: false, required: true, text: messageOf(cause) };
  }
}

function gpu(): Check {
  try {
    return { name: "GPU", ok: true, required: false, text: loadAddon().describeDevice("cuda") };
  } catch (cause) {
    return { name: "GPU", ok: false, required: false, text: messageOf(cause) };
  }
}

async function tokenizers(): Promise<Check> {
  try {
    await import("tokenizers");
    return { name: "tokenizers", ok: true, required: true, text: "the native package loads" };
  } catch (cause) {
    return { name: "tokenizers", ok: false, required: true, text: messageOf(cause) };
  }
}

async function java(): Promise<Check> {
  try {
    const { stderr } = await promisify(execFile)("java", ["-version"]);
    return { name: "Java", ok: true, required: false, text: stderr.split("\n")[0] ?? "" };
  } catch {
    return { name: "Java", ok: false, required: false, text: "not found; only ScienceWorld needs it" };
  }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
