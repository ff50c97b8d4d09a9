#!/usr/bin/env node
/**
 * Fails when a public export of src/index.ts has no doc comment, or a TypeScript snippet in README.md or docs/ does not
 * compile. Snippets fenced as ```ts are compiled as modules that import this package by its name; ```ts skip are not;
 * ```ts run are compiled, then run (they need a build).
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const problems = [];

function compilerOptions() {
  const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [], files: ["src/index.ts"] }, ts.sys, root);
  return { ...options, noEmit: true };
}

/** Every exported name needs a doc comment where it is declared. */
function checkExports() {
  const entry = join(root, "src/index.ts");
  const program = ts.createProgram([entry], compilerOptions());
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(entry);
  const module = source && checker.getSymbolAtLocation(source);
  if (!module) throw new Error("src/index.ts is no module");
  const symbols = checker.getExportsOfModule(module);
  for (const symbol of symbols) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    const declarations = target.declarations ?? [];
    if (declarations.length === 0) problems.push(`src/index.ts: \`${symbol.name}\` does not resolve`);
    else if (!isDocumented(declarations))
      problems.push(`${place(declarations[0])}: \`${symbol.name}\` is exported without a doc comment`);
  }
  return symbols.length;
}

/** A comment on a variable stands before its whole statement. A file's head counts for the one thing named after it. */
function isDocumented(declarations) {
  return declarations.some((declaration) => {
    const node = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
    return ts.getJSDocCommentsAndTags(node).some((doc) => text(doc).trim() !== "");
  });
}

function text(doc) {
  return typeof doc.comment === "string" ? doc.comment : (doc.comment ?? []).map((part) => part.text).join("");
}

function place(node) {
  const file = node.getSourceFile();
  const { line } = file.getLineAndCharacterOfPosition(node.getStart());
  return `${relative(root, file.fileName)}:${line + 1}`;
}

function markdownFiles(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? markdownFiles(path) : entry.name.endsWith(".md") ? [path] : [];
  });
}

function snippets() {
  const found = [];
  for (const file of [join(root, "README.md"), ...markdownFiles(join(root, "docs"))].filter(existsSync)) {
    const lines = readFileSync(file, "utf8").split("\n");
    let open = null;
    lines.forEach((line, i) => {
      const fence = /^```(ts|typescript)?\s*(run|skip)?\s*$/.exec(line);
      if (open === null && fence?.[1]) open = { file, line: i + 1, mode: fence[2] ?? "compile", code: [] };
      else if (open !== null && /^```\s*$/.test(line)) {
        found.push({ ...open, code: open.code.join("\n") });
        open = null;
      } else open?.code.push(line);
    });
  }
  return found.filter((snippet) => snippet.mode !== "skip");
}

/** The package's entry points, mapped from the build to the sources. */
function sourcesOfExports() {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const entries = Object.entries(manifest.exports).filter(([, target]) => typeof target === "object");
  const source = (target) => target.default.replace("./dist/", "src/").replace(/\.js$/, ".ts");
  return Object.fromEntries(entries.map(([name, target]) => [name.replace(/^\./, manifest.name), [source(target)]]));
}

/** Snippets become modules in a folder of the repository, so that the package's name resolves to its sources. */
function checkSnippets() {
  const list = snippets();
  const folder = join(root, "build", "doc-snippets");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const files = list.map((snippet, i) => {
    const name = join(folder, `${i}.mts`);
    writeFileSync(name, `${snippet.code}\nexport {};\n`);
    return name;
  });
  const options = {
    ...compilerOptions(),
    baseUrl: root,
    paths: sourcesOfExports(),
    noUnusedLocals: false,
    noUncheckedIndexedAccess: false,
  };
  const program = ts.createProgram(files, options);
  for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
    const index = files.indexOf(diagnostic.file?.fileName ?? "");
    if (index === -1) continue;
    const { line } = diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start ?? 0);
    const message = ts.flattenDiagnosticMessageText(diagnostic.messageText, " ");
    problems.push(`${relative(root, list[index].file)}:${list[index].line + line + 1}: ${message}`);
  }
  list.forEach((snippet, i) => {
    if (snippet.mode !== "run") return;
    const compiled = join(folder, `${i}.mjs`);
    const { outputText } = ts.transpileModule(snippet.code, { compilerOptions: { ...options, noEmit: false } });
    writeFileSync(compiled, outputText);
    const result = spawnSync(process.execPath, [compiled], { cwd: root, encoding: "utf8", timeout: 120_000 });
    if (result.status !== 0)
      problems.push(
        `${relative(root, snippet.file)}:${snippet.line}: the snippet fails: ${result.stderr.trim().split("\n").slice(0, 4).join(" ")}`,
      );
  });
  return list.length;
}

const exports = checkExports();
const compiled = checkSnippets();
for (const problem of problems) console.error(problem);
console.log(`${exports} public exports, ${compiled} snippets, ${problems.length} problems`);
process.exit(problems.length === 0 ? 0 : 1);
