import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { readRecipe } from "../../src/recipes/recipe.js";
import { recipeTables } from "./tables.js";

const root = fileURLToPath(new URL("../../", import.meta.url));

describe("docs/recipes.md", () => {
  it("has the keys that the schemas have", async () => {
    const path = `${root}docs/recipes.md`;
    const text = readFileSync(path, "utf8");
    const at = text.indexOf("## Keys\n");
    await expect((at === -1 ? text : text.slice(0, at)) + recipeTables()).toMatchFileSnapshot(path);
  });

  it("explains every key", () => {
    const unexplained = recipeTables()
      .split("\n")
      .filter((line) => /\|\s*\|$/u.test(line));
    expect(unexplained).toEqual([]);
  });
});

describe("examples", () => {
  const recipes = readdirSync(`${root}examples`).filter((name) => name.endsWith(".yaml"));

  it.each(recipes)("%s is a recipe", async (name) => {
    const recipe = await readRecipe(`${root}examples/${name}`);
    expect(recipe.name).toBe(name.replace(".yaml", ""));
  });
});
