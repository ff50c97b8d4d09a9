/**
 * The JavaScript of `dist/`: each module of `src/` under its own path, but all that `import "act-trainer"` reads at once
 * in one file, `chunks/package.js`, from which those modules export.
 *
 * Node's loader spends half a millisecond on a module, and zod's entry alone reads 95, two thirds of them translations of
 * messages: read one by one, they made the import 2.5 times as long. zod is the one package inside; types come from tsc.
 */
import { readdirSync, readFileSync } from "node:fs";
import { resolve, sep } from "node:path";

const { dependencies } = JSON.parse(readFileSync("package.json", "utf8"));
const modules = readdirSync("src", { recursive: true })
  .filter((path) => path.endsWith(".ts"))
  .map((path) => path.slice(0, -".ts".length).replaceAll(sep, "/"));
const source = (name) => resolve("src", `${name}.ts`);
const notice = `/*!\n${readFileSync("node_modules/zod/LICENSE", "utf8")}*/`;

export default {
  input: Object.fromEntries(modules.map((name) => [name, source(name)])),
  external: Object.keys(dependencies).filter((name) => name !== "zod"),
  platform: "node",
  transform: { target: "es2022" },
  output: {
    dir: "dist",
    sourcemap: true,
    entryFileNames: "[name].js",
    // One folder down, as modules are: what they look up from `import.meta.url` lies two folders above either.
    chunkFileNames: "chunks/[name].js",
    banner: ({ moduleIds }) => (moduleIds.some((id) => /[\\/]node_modules[\\/]zod[\\/]/.test(id)) ? notice : ""),
    codeSplitting: {
      groups: [
        // On its own: `act-trainer --help` needs no more.
        { name: "errors", test: (id) => id === source("errors"), priority: 1 },
        // A group takes in what its modules import.
        { name: "package", test: (id) => id === source("index") },
      ],
    },
  },
};
