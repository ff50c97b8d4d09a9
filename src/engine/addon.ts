/**
 * Loads the native addon; the only module that knows where the binary lies.
 *
 * `build/native/Release/act_addon.node` below the package's root, as `npm run build:native` makes it. The environment
 * variable `ACT_ADDON_PATH` names another file, e.g. a debug build.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { EngineError } from "./errors.js";
import type { NativeAddon } from "./native.js";

/** Number of the boundary in native.ts; the binary carries its own. */
const CONTRACT_VERSION = "1";

let loaded: NativeAddon | null = null;

/**
 * The addon, loaded at the first call: importing this package costs nothing where no engine is made.
 *
 * @throws EngineError `ADDON_NOT_FOUND` when there is no binary, it does not load, or it is of another version.
 */
export function loadAddon(): NativeAddon {
  loaded ??= open();
  return loaded;
}

function open(): NativeAddon {
  // This file is two folders below the root, in src/ as in dist/.
  const path =
    process.env.ACT_ADDON_PATH ?? fileURLToPath(new URL("../../build/native/Release/act_addon.node", import.meta.url));
  if (!existsSync(path))
    throw new EngineError("ADDON_NOT_FOUND", `There is no native addon at ${path}.`, {
      hint: "Build it with `npm run build:native` (needs CMake and a C++20 compiler).",
    });
  let addon: NativeAddon;
  try {
    addon = createRequire(import.meta.url)(path) as NativeAddon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError("ADDON_NOT_FOUND", `The native addon ${path} does not load: ${reason}.`, {
      hint: "It may be built for another system: build it again with `npm run build:native`.",
      cause,
    });
  }
  if (addon.version !== CONTRACT_VERSION)
    throw new EngineError(
      "ADDON_NOT_FOUND",
      `The native addon ${path} speaks version ${addon.version} of the boundary, this package ${CONTRACT_VERSION}.`,
      { hint: "Build it again with `npm run build:native`." },
    );
  return addon;
}
