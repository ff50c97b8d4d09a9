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

/** One line a purpose, then the total. */
export function formatMemoryPlan(plan: MemoryPlan): string {
  const line = (text: string, bytes: number): string => `${text.padEnd(42)}${formatBytes(bytes).padStart(10)}`;
  const lines = [...PURPOSES.map(([key, text]) => line(text, plan[key])), line("total", plan.total)];
  if (plan.host > 0) lines.push(line("besides, moments in host memory", plan.host));
  return lines.join("\n");
}
