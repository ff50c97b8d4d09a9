/** The memory plan as people read it. */
import type { NativeMemoryPlan } from "./native.js";

/** Bytes an engine will allocate, by purpose; exact, computed before anything is allocated. */
export type MemoryPlan = Readonly<NativeMemoryPlan>;

const PURPOSES: readonly (readonly [keyof NativeMemoryPlan, string])[] = [
  ["weights", "weights and their fp32 masters"],
  ["gradients", "gradients"],
  ["optimizer", "AdamW moments"],
  ["cache", "keys and values of sampling and training"],
  ["activations", "activations"],
  ["head", "hidden rows and logits"],
  ["scratch", "working memory of operations"],
];

/** `1.50 GB` and so on; powers of ten. */
export function formatBytes(bytes: number): string {
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ] as const)
    if (bytes >= size) return `${(bytes / size).toFixed(bytes / size >= 100 ? 0 : 2)} ${unit}`;
  return `${bytes} B`;
}

/** One line a purpose, then the total; with offloaded optimizer state what lies where. */
export function formatMemoryPlan(plan: MemoryPlan): string {
  const line = (text: string, bytes: number): string => `${text.padEnd(42)}${formatBytes(bytes).padStart(10)}`;
  const purposes = PURPOSES.map(([key, text]) => line(text, plan[key]));
  if (plan.host === 0) return [...purposes, line("total", plan.total)].join("\n");
  // Steps read and write the host's memory in place: the device holds the same in both phases.
  const device = ["on the device, sampling", "on the device, stepping"].map((text) => line(text, plan.total));
  return [...purposes, ...device, line("optimizer state in pinned host memory", plan.host)].join("\n");
}
