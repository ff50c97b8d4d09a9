/** The engine against PyTorch and transformers, on every backend this machine has; or on the device ACT_TEST_DEVICE names. */
import { loadAddon } from "../../src/engine/addon.js";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import { describeGolden } from "./golden-suite.js";

const device = process.env.ACT_TEST_DEVICE as EngineOptions["device"];

if (device !== undefined) {
  describeGolden(device, { device });
  describeGolden(`${device}, batch-invariant`, { device, batchInvariant: true });
} else {
  describeGolden("reference", { device: "reference" });
  for (const set of loadAddon().instructionSets())
    describeGolden(`cpu ${set}`, { device: "cpu", instructionSet: set as EngineOptions["instructionSet"] });
}
