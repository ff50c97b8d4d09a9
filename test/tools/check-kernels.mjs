#!/usr/bin/env node
/**
 * Fails when a CUDA source breaks a rule that the emulator relies on (docs/cuda.md): kernels include only gpu.cuh through
 * launch.cuh, PTX is in ptx.cuh, launches and dynamic shared memory go through their macros, floats are never added by
 * atomics.
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const folder = join(root, "native", "ops", "cuda");

const RULES = [
  { name: "inline PTX belongs in ptx.cuh", pattern: /\basm\b/, except: ["ptx.cuh", "emulator.cc"] },
  { name: "launch through GPU_LAUNCH", pattern: /<<<|cudaLaunch/, except: ["device_cuda.cc"] },
  { name: "dynamic shared memory through GPU_SHARED", pattern: /extern\s+__shared__/, except: ["gpu.cuh"] },
  {
    name: "no CUDA headers outside gpu.cuh and device_cuda.cc",
    pattern: /#\s*include\s*[<"]cu(?!da_backend\.h|blaslt(_api|_library)?\.h)/,
    except: ["gpu.cuh", "device_cuda.cc"],
  },
  { name: "no atomics on floats", pattern: /atomicAdd\s*\(\s*\(?\s*(float|double)/, except: [] },
  { name: "no device printf or assert", pattern: /\b(printf|assert)\s*\(/, except: [] },
  { name: "no grid-wide synchronization", pattern: /cooperative_groups|__threadfence/, except: [] },
];

/** @param {string} text @returns {string} without comments, line numbers kept */
function withoutComments(text) {
  return text.replace(/\/\*[\s\S]*?\*\//g, (found) => found.replace(/[^\n]/g, " ")).replace(/\/\/.*$/gm, "");
}

/** @param {string} source @param {string} file @returns {string[]} "line: rule" for every breach */
export function breaches(source, file) {
  const found = [];
  withoutComments(source)
    .split("\n")
    .forEach((line, index) => {
      for (const rule of RULES)
        if (!rule.except.includes(file) && rule.pattern.test(line)) found.push(`${index + 1}: ${rule.name}`);
    });
  return found;
}

const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => /\.(cuh?|cc|h)$/.test(name));
if (files.length === 0) throw new Error(`no sources in ${folder}`);
let count = 0;
for (const name of files) {
  const path = join(folder, name);
  for (const breach of breaches(readFileSync(path, "utf8"), name.split("/").at(-1) ?? name)) {
    console.error(`${relative(root, path)}:${breach}`);
    count++;
  }
}
console.log(count === 0 ? `${files.length} CUDA sources keep the rules` : `${count} breaches`);
process.exitCode = count === 0 ? 0 : 1;
