/**
 * A language model loaded for sampling, scoring and training: the public face of the native engine.
 *
 * Every method runs on the engine's own thread; none blocks the event loop. Calls take effect in the order in which they
 * are made, except that sampling goes on side by side with scores and accumulations, and all of these with saves. Arrays
 * given to a call are not to be changed before it settles. See docs/engine.md.
 */
import { type AdapterFolder, openAdapterFolder } from "./adapter-folder.js";
import { loadAddon } from "./addon.js";
import { CallOrder } from "./call-order.js";
import { checkEngineOptions, type EngineOptions, nativeEngineOptions } from "./engine-options.js";
import { EngineError } from "./errors.js";
import { formatMemoryPlan, type MemoryPlan } from "./memory-plan.js";
import { type FileDType, type ModelConfig, parseModelConfig } from "./model-config.js";
import { type ModelFolder, openModelFolder } from "./model-folder.js";
import type {
  NativeEngine,
  NativeEngineOptions,
  NativeLossResult,
  NativeTensorInfo,
  NativeTensorKind,
} from "./native.js";
import { abortable, nativeCall, nativeCallSync } from "./native-call.js";
import type {
  AdamWOptions,
  Completion,
  EngineStats,
  GenerateRequest,
  LossResult,
  LossRows,
  Policy,
  TokenForest,
} from "./policy.js";
import {
  callSchema,
  checkFolderCall,
  loadSchema,
  nativeForest,
  nativeGenerateRequest,
  nativeLossRows,
  nativeSeed,
  nativeStepOptions,
  parseOptions,
  saveModelSchema,
  scoreCallSchema,
} from "./requests.js";
import { type SaveModelSettings, type SaveSource, saveAdapters, saveModel } from "./save-model.js";
import { loadState, saveState } from "./state.js";

/** How loading is watched and stopped. */
export interface LoadSettings {
  readonly signal?: AbortSignal;
  /** Called after each tensor. */
  readonly onProgress?: (loaded: number, total: number) => void;
}

export type TensorInfo = Readonly<NativeTensorInfo>;
export type TensorKind = NativeTensorKind;

/** A memory plan with the options it was made for. */
export interface EnginePlan {
  readonly bytes: MemoryPlan;
  /** The table `act-trainer` prints. */
  readonly text: string;
  readonly maxSequences: number;
  readonly cacheTokens: number;
  readonly maxBatchTokens: number;
}

/** A language model loaded for sampling, scoring and training. Make one with {@link Engine.load} or {@link Engine.create}; dispose of it when done. */
export class Engine implements Policy, AsyncDisposable {
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly eosTokens: readonly number[];
  /** What the model folder or the configuration says. */
  readonly config: ModelConfig;
  /** Dtype the model computes with. */
  readonly dtype: "fp32" | "bf16";
  /** Backend and instruction set in words. */
  readonly device: string;
  /** Tokens of one forward pass at most; no tree of a forest may be larger. */
  readonly maxBatchTokens: number;
  /** Bytes by purpose, as planned before anything was allocated. */
  readonly plan: MemoryPlan;

  readonly #native: NativeEngine;
  readonly #options: NativeEngineOptions;
  readonly #folder: ModelFolder | null;
  #state: "open" | "disposed" = "open";
  readonly #order = new CallOrder();
  /** Added to the native counter, which restarts with every engine, after a state was loaded. */
  #versionOffset = 0;

  private constructor(
    native: NativeEngine,
    options: NativeEngineOptions,
    config: ModelConfig,
    eosTokens: readonly number[],
    folder: ModelFolder | null,
  ) {
    this.#native = native;
    this.#options = options;
    this.#folder = folder;
    this.config = config;
    this.contextLength = config.native.maxPositions;
    this.vocabSize = config.native.vocabSize;
    this.eosTokens = eosTokens;
    this.dtype = options.dtype;
    this.device = native.device;
    this.maxBatchTokens = options.maxBatchTokens;
    this.plan = native.plan;
  }

  /**
   * Loads a Hugging Face model folder.
   *
   * @throws EngineError `MODEL_NOT_FOUND`, `MODEL_CONFIG`, `MODEL_UNSUPPORTED`, `MODEL_TENSORS`, `SAFETENSORS`,
   * `ADAPTER`, `NUMERICS` (a weight is NaN or infinite), `MEMORY_PLAN`, `OUT_OF_MEMORY`, `THREADS`,
   * `BAD_ARGUMENT`, `ADDON_NOT_FOUND`.
   */
  static async load(modelDir: string, options: EngineOptions = {}, settings: LoadSettings = {}): Promise<Engine> {
    checkEngineOptions(options);
    parseOptions(loadSchema, settings, "settings");
    const { signal, onProgress } = settings;
    signal?.throwIfAborted();
    const folder = await openModelFolder(modelDir);
    const adapter = await openAdapter(options, folder);
    signal?.throwIfAborted();
    const native = nativeEngineOptions(withAdapter(options, adapter), folder.config.native, storedDtype(folder.config));
    const engine = await Engine.#start(native, folder.config, folder.eosTokens, folder);
    return engine.#orDispose(async () => {
      const tensors = [...folder.tensors, ...(adapter?.tensors ?? [])];
      let loaded = 0;
      for (const [name, { file, offset, byteLength, dtype }] of tensors) {
        signal?.throwIfAborted();
        // The folders' readers let no other dtype pass.
        const loadable = dtype as FileDType;
        await nativeCall(() => engine.#native.loadTensor(name, file, offset, byteLength, loadable));
        onProgress?.(++loaded, tensors.length);
      }
    });
  }

  /**
   * A model with seeded random weights: normal with standard deviation `initializer_range` (default 0.02), norms 1,
   * biases 0; the same on every machine.
   *
   * @param config The object of a `config.json`.
   */
  static async create(
    config: Readonly<Record<string, unknown>>,
    seed: number | bigint,
    options: EngineOptions = {},
  ): Promise<Engine> {
    const parsed = parseModelConfig(configText(config), "the configuration");
    const initial = nativeSeed(seed);
    checkEngineOptions(options);
    const deviation = config.initializer_range ?? 0.02;
    if (typeof deviation !== "number" || !(deviation > 0))
      throw new EngineError("MODEL_CONFIG", `Expected a positive number for \`initializer_range\`, got ${deviation}.`, {
        hint: "Correct it in the configuration, or leave it out for 0.02.",
      });
    if (options.adapter !== undefined)
      throw new EngineError("BAD_ARGUMENT", "Adapters belong to trained weights, not to random ones.", {
        hint: "Use `Engine.load`, or `lora` for new adapters.",
      });
    const native = nativeEngineOptions(options, parsed.native, storedDtype(parsed));
    const engine = await Engine.#start(native, parsed, parsed.eosTokens, null);
    return engine.#orDispose(() => nativeCall(() => engine.#native.initialize(initial, deviation)));
  }

  /** What an engine would allocate, without making one. A `memoryLimit` is enforced as it would be there. */
  static async plan(modelDir: string, options: EngineOptions = {}): Promise<EnginePlan> {
    checkEngineOptions(options);
    const folder = await openModelFolder(modelDir);
    const adapter = await openAdapter(options, folder);
    const native = nativeEngineOptions(withAdapter(options, adapter), folder.config.native, storedDtype(folder.config));
    const bytes = nativeCallSync(() => loadAddon().planMemory(native));
    const { maxSequences, cacheTokens, maxBatchTokens } = native;
    return { bytes, text: formatMemoryPlan(bytes), maxSequences, cacheTokens, maxBatchTokens };
  }

  static async #start(
    options: NativeEngineOptions,
    config: ModelConfig,
    eosTokens: readonly number[],
    folder: ModelFolder | null,
  ): Promise<Engine> {
    const native = await nativeCall(() => loadAddon().createEngine(options));
    return new Engine(native, options, config, eosTokens, folder);
  }

  /** This engine once `prepare` is done; disposed of when that fails. */
  async #orDispose(prepare: () => Promise<void>): Promise<this> {
    try {
      await prepare();
      return this;
    } catch (error) {
      await this.dispose();
      throw error;
    }
  }

  async generate(request: GenerateRequest, options: { readonly signal?: AbortSignal } = {}): Promise<Completion[]> {
    this.#assertOpen();
    parseOptions(callSchema, options, "options");
    const native = nativeGenerateRequest(request, this.eosTokens);
    const completions: Completion[] = new Array(native.count);
    await this.#abortable(options.signal, () =>
      this.#native.generate(native, (index, completion) => {
        completions[index] = { ...completion, weightVersion: completion.weightVersion + this.#versionOffset };
      }),
    );
    if (completions.some(({ finishReason }) => finishReason === "aborted")) options.signal?.throwIfAborted();
    return completions;
  }

  async score(
    forest: TokenForest,
    rows: LossRows,
    options: { readonly signal?: AbortSignal; readonly adapters?: boolean } = {},
  ): Promise<LossResult> {
    this.#assertOpen();
    parseOptions(scoreCallSchema, options, "options");
    const [native, nativeRows] = [nativeForest(forest), nativeLossRows(rows)];
    const { signal, adapters = true } = options;
    return lossResult(await this.#abortable(signal, () => this.#native.score(native, nativeRows, adapters)));
  }

  /**
   * See {@link Policy.accumulate}. After an abort or a failure in the middle (`NUMERICS`, `OUT_OF_MEMORY`) all gradients
   * are zero: the optimizer step has to be accumulated again from its beginning.
   */
  async accumulate(
    forest: TokenForest,
    rows: LossRows,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<LossResult> {
    this.#assertOpen();
    parseOptions(callSchema, options, "options");
    const [native, nativeRows] = [nativeForest(forest), nativeLossRows(rows)];
    return lossResult(await this.#abortable(options.signal, () => this.#native.accumulate(native, nativeRows)));
  }

  async step(options: AdamWOptions): Promise<{ readonly gradNorm: number; readonly step: number }> {
    this.#assertOpen();
    const native = nativeStepOptions(options);
    return this.#order.run("change", () => nativeCall(() => this.#native.step(native)));
  }

  async zeroGradients(): Promise<void> {
    this.#assertOpen();
    return this.#order.run("read", () => nativeCall(() => this.#native.zeroGradients()));
  }

  stats(): EngineStats {
    this.#assertOpen();
    const stats = nativeCallSync(() => this.#native.stats());
    return { ...stats, weightVersion: stats.weightVersion + this.#versionOffset };
  }

  /** Every tensor by name, adapters included. */
  tensors(): readonly TensorInfo[] {
    this.#assertOpen();
    return nativeCallSync(() => this.#native.tensors());
  }

  /**
   * A tensor's values: `weight` as the forward pass sees it (bf16 as its 16 bits), every other kind fp32 and only of
   * trainable tensors.
   */
  async readTensor(name: string, kind: TensorKind = "weight"): Promise<Float32Array | Uint16Array> {
    this.#assertOpen();
    return this.#order.run("read", () => nativeCall(() => this.#native.readTensor(name, kind)));
  }

  /** Optimizer steps taken. */
  get optimizerStep(): number {
    this.#assertOpen();
    return nativeCallSync(() => this.#native.optimizerStep);
  }

  /**
   * Writes a Hugging Face model folder that transformers loads: `model.safetensors`, `config.json`, and the tokenizer
   * and generation files of the folder the model came from. Adapters are merged into the weights. The folder appears
   * whole or not at all; an earlier save is replaced, a folder with other files refused (`FOLDER_EXISTS`).
   */
  async saveModel(dir: string, settings: SaveModelSettings = {}): Promise<void> {
    checkFolderCall(dir, settings, saveModelSchema);
    this.#assertOpen();
    await this.#order.run("save", () => saveModel(dir, this.#saveSource(), settings), settings.signal);
  }

  /** Writes the adapters alone, as PEFT does: `adapter_model.safetensors` (fp32) and `adapter_config.json`. */
  async saveAdapters(dir: string, settings: Pick<SaveModelSettings, "signal"> = {}): Promise<void> {
    checkFolderCall(dir, settings, callSchema);
    this.#assertOpen();
    await this.#order.run("save", () => saveAdapters(dir, this.#saveSource(), settings), settings.signal);
  }

  /**
   * Writes what training needs to go on bit for bit: fp32 masters, moments, optimizer step, weight version. Gradients
   * are not part of it: save after a step. The folder appears whole or not at all; an earlier state is replaced, a folder
   * with other files refused (`FOLDER_EXISTS`). Needs `training`.
   */
  async saveState(dir: string, settings: Pick<SaveModelSettings, "signal"> = {}): Promise<void> {
    checkFolderCall(dir, settings, callSchema);
    this.#assertOpen();
    const { signal } = settings;
    const weightVersion = (): number => this.stats().weightVersion;
    const source = { native: this.#native, options: this.#options, weightVersion };
    await this.#order.run("save", () => saveState(dir, source, signal), signal);
  }

  /**
   * Takes up what {@link Engine.saveState} wrote, into an engine of the same model and dtype. Gradients are zeroed.
   * Everything is checked before the first value is changed.
   *
   * @throws EngineError `STATE` (damaged, incomplete, of another model), `BUSY`.
   */
  async loadState(dir: string, settings: Pick<SaveModelSettings, "signal"> = {}): Promise<void> {
    checkFolderCall(dir, settings, callSchema);
    this.#assertOpen();
    const { signal } = settings;
    const load = async (): Promise<void> => {
      const { weightVersion } = await loadState(dir, { native: this.#native, options: this.#options }, signal);
      this.#versionOffset = weightVersion - nativeCallSync(() => this.#native.stats()).weightVersion;
    };
    await this.#order.run("load", load, signal);
  }

  /**
   * Ends whatever runs - completions come back as `aborted`, other calls reject with `ABORTED` - and frees the engine's
   * memory. Safe to call twice; every other call then throws `DISPOSED`.
   */
  async dispose(): Promise<void> {
    this.#state = "disposed";
    this.#order.rejectWaiting(new EngineError("ABORTED", "The engine was disposed of before this call's turn came."));
    await nativeCall(() => this.#native.dispose());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #assertOpen(): void {
    if (this.#state === "disposed")
      throw new EngineError("DISPOSED", "The engine was disposed of.", { hint: "Make a new engine." });
  }

  #saveSource(): SaveSource {
    return { native: this.#native, options: this.#options, config: this.config, folder: this.#folder };
  }

  #abortable<T>(signal: AbortSignal | undefined, start: () => { id: number; done: Promise<T> }): Promise<T> {
    return this.#order.run("read", () => abortable(signal, start, (id) => this.#native.cancel(id)), signal);
  }
}

function configText(config: unknown): string {
  try {
    return JSON.stringify(config) ?? "";
  } catch (cause) {
    throw new EngineError("MODEL_CONFIG", "the configuration is not what JSON can hold.", {
      hint: "Give the object of a config.json.",
      cause,
    });
  }
}

async function openAdapter({ adapter }: EngineOptions, folder: ModelFolder): Promise<AdapterFolder | null> {
  return adapter === undefined ? null : openAdapterFolder(adapter, folder.config.native);
}

/** The options with the `lora` of the adapters to be loaded. One that is given beside them must be the same. */
function withAdapter(options: EngineOptions, adapter: AdapterFolder | null): EngineOptions {
  if (adapter === null) return options;
  const { rank, alpha, targets } = adapter.lora;
  const given = options.lora ?? null;
  const same =
    given === null ||
    (given.rank === rank &&
      given.alpha === alpha &&
      (given.targets === undefined || [...given.targets].sort().join() === [...targets].sort().join()));
  if (!same)
    throw new EngineError(
      "BAD_ARGUMENT",
      `\`lora\` is not that of the adapters in ${options.adapter}: rank ${rank}, alpha ${alpha}, ${targets.join(", ")}.`,
      { hint: "Leave `lora` out: `adapter` brings its own." },
    );
  return { ...options, lora: { rank, alpha, targets: [...targets] } };
}

/** fp16 weights are computed with in fp32, which holds them exactly. */
function storedDtype(config: ModelConfig): "fp32" | "bf16" {
  return config.dtype === "BF16" ? "bf16" : "fp32";
}

function lossResult(result: NativeLossResult): LossResult {
  const { ce, policy, klTerm, entropyTerm, ...rest } = result;
  return { ...rest, terms: { ce, policy, kl: klTerm, entropy: entropyTerm } };
}
