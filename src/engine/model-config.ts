/**
 * Reads a Hugging Face `config.json`, as transformers 4 writes it (`rope_theta`, `rope_scaling`, `torch_dtype`) and as
 * 5 does (`rope_parameters`, `dtype`). Whatever changes the computation and is not supported is refused by name.
 */
import { describe } from "../errors.js";
import { EngineError } from "./errors.js";
import type { NativeModelConfig } from "./native.js";
import { type RopeSettings, ropeFrequencies } from "./rope.js";

export type Architecture = "llama" | "qwen2" | "qwen3";
export type FileDType = "F32" | "F16" | "BF16";

export interface ModelConfig {
  readonly architecture: Architecture;
  /** What the native engine needs; RoPE scaling applied. */
  readonly native: NativeModelConfig;
  readonly rope: RopeSettings;
  /** Dtype the weights were saved in, null where the file does not say. */
  readonly dtype: FileDType | null;
  /** End-of-sequence ids; a generation_config.json takes precedence. */
  readonly eosTokens: readonly number[];
  readonly bosToken: number | null;
  readonly padToken: number | null;
  /** The file's own object, for saving the model again. */
  readonly json: Readonly<Record<string, unknown>>;
}

/** Values transformers assumes where config.json says nothing. */
const DEFAULTS: Readonly<Record<Architecture, { className: string; maxPositions: number; headDim: number | null }>> = {
  llama: { className: "LlamaForCausalLM", maxPositions: 2048, headDim: null },
  qwen2: { className: "Qwen2ForCausalLM", maxPositions: 32768, headDim: null },
  qwen3: { className: "Qwen3ForCausalLM", maxPositions: 32768, headDim: 128 },
};
/** Far above any model: a hostile file must not make lists of 2^31 names or frequencies. */
const MAX_LAYERS = 4096;
const MAX_HEAD_DIM = 8192;
const DEFAULT_ROPE_THETA = 10_000;
const DEFAULT_NORM_EPS = 1e-6;

/**
 * Keys that change what a model computes, with the values that do not. Some are read by transformers for these three
 * architectures, others by programs whose models only call themselves one of them.
 */
const NEUTRAL_VALUES: Readonly<Record<string, readonly unknown[]>> = {
  is_causal: [true],
  attention_bias: [false],
  mlp_bias: [false],
  bias: [false],
  quantization_config: [],
  compression_config: [],
  pretraining_tp: [1],
  partial_rotary_factor: [1],
  rotary_pct: [1],
  rope_interleaved: [false],
  use_qk_norm: [false],
  qk_layernorm: [false],
  attention_multiplier: [],
  residual_multiplier: [1],
  embedding_multiplier: [1],
  logits_scaling: [1],
  logit_scale: [1],
  query_pre_attn_scalar: [],
  attn_logit_softcapping: [],
  final_logit_softcapping: [],
  clip_qkv: [],
  attn_temperature_tuning: [false],
  no_rope_layers: [],
  num_experts: [0],
  num_local_experts: [0],
  n_routed_experts: [0],
  is_encoder_decoder: [false],
  add_cross_attention: [false],
  parallel_attn: [false],
  alibi: [false],
};

/** @param source Path of the file, for messages. Throws EngineError `MODEL_CONFIG` and `MODEL_UNSUPPORTED`. */
export function parseModelConfig(text: string, source: string): ModelConfig {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new EngineError("MODEL_CONFIG", `${source} is not JSON.`, {
      hint: "Save the model folder again from where it came.",
      cause,
    });
  }
  if (!isObject(parsed))
    throw new EngineError("MODEL_CONFIG", `${source} is not a JSON object.`, {
      hint: 'Expected what transformers writes: `{"model_type": ...}`.',
    });
  return new ConfigReader(parsed, source).read();
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Reads keys with checks; `prefix` names a nested object in messages. */
class Fields {
  constructor(
    readonly json: Record<string, unknown>,
    readonly source: string,
    readonly prefix = "",
  ) {}

  wrong(key: string, expected: string): EngineError {
    return new EngineError(
      "MODEL_CONFIG",
      `${this.source}: expected ${expected} for \`${this.prefix}${key}\`, got ${describe(this.json[key])}.`,
      { hint: "Check that the file belongs to this model." },
    );
  }

  unsupported(key: string, what: string): EngineError {
    return new EngineError(
      "MODEL_UNSUPPORTED",
      `${this.source}: \`${this.prefix}${key}\` is ${describe(this.json[key])}: ${what}.`,
      { hint: "Supported are dense Llama, Qwen2 and Qwen3 models with full attention." },
    );
  }

  has(key: string): boolean {
    return this.json[key] !== undefined && this.json[key] !== null;
  }

  integer(key: string, fallback?: number, max = 2 ** 31 - 1): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.json[key];
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > max)
      throw this.wrong(key, `an integer from 1 to ${max}`);
    return value;
  }

  positive(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback;
    const value = this.json[key];
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) throw this.wrong(key, "a positive number");
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    if (!this.has(key)) return fallback;
    const value = this.json[key];
    if (typeof value !== "boolean") throw this.wrong(key, "true or false");
    return value;
  }

  object(key: string): Fields | null {
    if (!this.has(key)) return null;
    const value = this.json[key];
    if (!isObject(value)) throw this.wrong(key, "an object");
    return new Fields(value, this.source, `${this.prefix}${key}.`);
  }
}

class ConfigReader extends Fields {
  read(): ModelConfig {
    const architecture = this.architecture();
    this.refuseUnsupported();
    const layers = this.integer("num_hidden_layers", undefined, MAX_LAYERS);
    this.refuseSlidingWindow(architecture, layers);
    if (this.has("hidden_act") && this.json.hidden_act !== "silu" && this.json.hidden_act !== "swish")
      throw this.unsupported("hidden_act", "only silu is supported");

    const vocabSize = this.integer("vocab_size");
    const heads = this.integer("num_attention_heads");
    const hiddenSize = this.integer("hidden_size");
    const kvHeads = this.kvHeads(architecture, heads);
    const headDim = this.headDim(architecture, hiddenSize, heads);
    const maxPositions = this.integer("max_position_embeddings", DEFAULTS[architecture].maxPositions);
    const rope = this.rope(maxPositions);
    const frequencies = ropeFrequencies(rope, headDim);
    if (!frequencies.invFreq.every(Number.isFinite) || !Number.isFinite(frequencies.factor))
      throw new EngineError(
        "MODEL_CONFIG",
        `${this.source}: the rotary settings give frequencies that are not finite.`,
        {
          hint: "Check `rope_theta` and the scaling beside it.",
        },
      );
    return {
      architecture,
      native: {
        vocabSize,
        hiddenSize,
        layers,
        heads,
        kvHeads,
        headDim,
        intermediateSize: this.integer("intermediate_size"),
        maxPositions,
        normEps: this.positive("rms_norm_eps", DEFAULT_NORM_EPS),
        tiedEmbeddings: this.boolean("tie_word_embeddings", false),
        qkvBias: architecture === "qwen2",
        qkNorm: architecture === "qwen3",
        invFreq: frequencies.invFreq,
        ropeFactor: frequencies.factor,
      },
      rope,
      dtype: this.dtype(),
      eosTokens: this.tokens("eos_token_id", vocabSize),
      bosToken: this.tokens("bos_token_id", vocabSize)[0] ?? null,
      // Some models keep -1 for "none".
      padToken: this.json.pad_token_id === -1 ? null : (this.tokens("pad_token_id", vocabSize)[0] ?? null),
      json: this.json,
    };
  }

  private architecture(): Architecture {
    const type = this.json.model_type;
    if (type === undefined) throw this.wrong("model_type", '"llama", "qwen2" or "qwen3"');
    if (type !== "llama" && type !== "qwen2" && type !== "qwen3")
      throw this.unsupported("model_type", "this architecture is not supported");
    const { className } = DEFAULTS[type];
    const classes = this.json.architectures;
    if (classes === undefined || classes === null) return type;
    if (!Array.isArray(classes)) throw this.wrong("architectures", "an array");
    if (!classes.includes(className))
      throw new EngineError(
        "MODEL_UNSUPPORTED",
        `${this.source}: \`architectures\` is ${JSON.stringify(classes)}: only ${className} has a language-model head.`,
        { hint: "Give the folder of a causal language model." },
      );
    return type;
  }

  private refuseUnsupported(): void {
    for (const [key, neutral] of Object.entries(NEUTRAL_VALUES))
      if (this.has(key) && !neutral.includes(this.json[key]))
        throw this.unsupported(key, "it changes the computation and is not supported");
    // Settings of single layers (transformers 5); an empty object says nothing.
    const perLayer = this.json.per_layer_config;
    if (this.has("per_layer_config") && !(isObject(perLayer) && Object.keys(perLayer).length === 0))
      throw this.unsupported("per_layer_config", "layers that differ from each other are not supported");
  }

  private refuseSlidingWindow(architecture: Architecture, layers: number): void {
    // Null is as absent: transformers then derives the types from max_window_layers.
    const types = this.json.layer_types ?? null;
    if (types !== null) {
      if (!Array.isArray(types) || types.length !== layers)
        throw this.wrong("layer_types", `an array with one entry for each of ${layers} layers`);
      const other: unknown = types.find((type) => type !== "full_attention");
      if (other !== undefined) throw this.unsupported("layer_types", `${describe(other)} layers are not supported`);
    }
    if (!this.has("sliding_window")) return;
    const window = this.integer("sliding_window");
    if (architecture === "llama") {
      // transformers' Llama ignores the key; programs that honor it would compute something else.
      if (window < this.integer("max_position_embeddings", DEFAULTS.llama.maxPositions))
        throw this.unsupported("sliding_window", "sliding-window attention is not supported");
      return;
    }
    const inUse = this.boolean("use_sliding_window", false) && this.windowedLayers(layers) > 0;
    // With explicit layer types (checked above) transformers no longer looks at max_window_layers.
    if (inUse && types === null)
      throw this.unsupported("sliding_window", "sliding-window attention is in use and not supported");
  }

  private windowedLayers(layers: number): number {
    const first = this.json.max_window_layers ?? 28;
    if (typeof first !== "number" || !Number.isInteger(first) || first < 0)
      throw this.wrong("max_window_layers", "an integer >= 0");
    return Math.max(0, layers - first);
  }

  private kvHeads(architecture: Architecture, heads: number): number {
    // A missing key means 32 to transformers' Qwen classes, which no saved model relies on.
    const missing = this.json.num_key_value_heads === undefined && architecture !== "llama";
    const kvHeads = missing ? this.integer("num_key_value_heads") : this.integer("num_key_value_heads", heads);
    if (heads % kvHeads !== 0) throw this.wrong("num_key_value_heads", `a divisor of num_attention_heads (${heads})`);
    return kvHeads;
  }

  private headDim(architecture: Architecture, hiddenSize: number, heads: number): number {
    const fallback = DEFAULTS[architecture].headDim;
    if (!this.has("head_dim") && fallback === null && hiddenSize % heads !== 0)
      throw this.wrong("hidden_size", `a multiple of num_attention_heads (${heads}), or an explicit head_dim`);
    const headDim = this.integer("head_dim", fallback ?? hiddenSize / heads, MAX_HEAD_DIM);
    if (headDim % 2 !== 0 || headDim > MAX_HEAD_DIM)
      throw this.wrong("head_dim", `an even number up to ${MAX_HEAD_DIM}`);
    return headDim;
  }

  private dtype(): FileDType | null {
    const key = this.has("dtype") ? "dtype" : "torch_dtype";
    switch (this.json[key]) {
      case undefined:
      case null:
        return null;
      case "float32":
        return "F32";
      case "float16":
        return "F16";
      case "bfloat16":
        return "BF16";
      default:
        throw this.unsupported(key, "weights are float32, float16 or bfloat16");
    }
  }

  private tokens(key: string, vocabSize: number): number[] {
    const value = this.json[key];
    if (value === undefined || value === null) return [];
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    return ids.map((id) => {
      if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabSize)
        throw this.wrong(key, `token ids below the vocabulary size (${vocabSize})`);
      return id;
    });
  }

  /** `rope_parameters` (5), or `rope_scaling` with `rope_theta` beside it (4). */
  private rope(maxPositions: number): RopeSettings {
    const current = this.object("rope_parameters");
    const legacy = this.object("rope_scaling");
    if (current !== null && legacy !== null && JSON.stringify(current.json) !== JSON.stringify(legacy.json))
      throw this.wrong("rope_scaling", "no second, different setting beside `rope_parameters`");
    const fields = current ?? legacy ?? new Fields({}, this.source, "rope_parameters.");
    if (fields.has("rope_theta") && this.has("rope_theta") && fields.json.rope_theta !== this.json.rope_theta)
      throw this.wrong("rope_theta", `the value of \`${fields.prefix}rope_theta\``);
    return readRope(fields, this.positive("rope_theta", DEFAULT_ROPE_THETA), this.originalPositions(), maxPositions);
  }

  private originalPositions(): number | null {
    return this.has("original_max_position_embeddings") ? this.integer("original_max_position_embeddings") : null;
  }
}

const ROPE_KEYS: Readonly<Record<RopeSettings["type"], readonly string[]>> = {
  // Keys a scaling type does not read stay in files whose type was changed to default.
  default: ["factor", "original_max_position_embeddings"],
  linear: ["factor", "original_max_position_embeddings"],
  llama3: ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
  yarn: [
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "finetuned",
  ],
};

/**
 * @param theta Base from the top level, where the settings have none.
 * @param original Pretraining context from the top level, which takes precedence (as in transformers).
 */
function readRope(fields: Fields, theta: number, original: number | null, maxPositions: number): RopeSettings {
  const named = fields.json.rope_type ?? fields.json.type ?? "default";
  if (fields.has("rope_type") && fields.has("type") && fields.json.type !== fields.json.rope_type)
    throw fields.wrong("type", "the value of `rope_type`");
  if (named !== "default" && named !== "linear" && named !== "llama3" && named !== "yarn")
    throw fields.unsupported(
      fields.has("rope_type") ? "rope_type" : "type",
      "supported rotary scalings are default, linear, llama3 and yarn",
    );
  if (fields.has("partial_rotary_factor") && fields.json.partial_rotary_factor !== 1)
    throw fields.unsupported("partial_rotary_factor", "only fully rotated heads are supported");
  const known = new Set(["type", "rope_type", "rope_theta", "partial_rotary_factor", ...ROPE_KEYS[named]]);
  for (const key of Object.keys(fields.json))
    if (!known.has(key) && fields.has(key))
      throw fields.unsupported(key, `it is not a setting of ${named} rotary embeddings`);

  const base = fields.positive("rope_theta", theta);
  const originalMaxPositions = original ?? fields.integer("original_max_position_embeddings", maxPositions);
  switch (named) {
    case "default":
      return { type: "default", theta: base };
    case "linear":
      return { type: "linear", theta: base, factor: fields.positive("factor") };
    case "llama3": {
      const lowFreqFactor = fields.positive("low_freq_factor");
      const highFreqFactor = fields.positive("high_freq_factor");
      if (highFreqFactor <= lowFreqFactor) throw fields.wrong("high_freq_factor", "more than `low_freq_factor`");
      const factor = fields.positive("factor");
      return { type: "llama3", theta: base, factor, lowFreqFactor, highFreqFactor, originalMaxPositions };
    }
    case "yarn": {
      const factor = fields.positive("factor", maxPositions / originalMaxPositions);
      return {
        type: "yarn",
        theta: base,
        factor,
        originalMaxPositions,
        betaFast: fields.positive("beta_fast", 32),
        betaSlow: fields.positive("beta_slow", 1),
        attentionFactor: fields.positive("attention_factor", yarnAttentionFactor(fields, factor)),
        truncate: fields.boolean("truncate", true),
      };
    }
  }
}

/** 0.1 m ln(factor) + 1 (YaRN, equation 22); with both mscales the ratio of theirs, as DeepSeek defined it. */
function yarnAttentionFactor(fields: Fields, factor: number): number {
  const scale = (m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);
  if (fields.json.mscale && fields.json.mscale_all_dim)
    return scale(fields.positive("mscale")) / scale(fields.positive("mscale_all_dim"));
  return scale(1);
}
