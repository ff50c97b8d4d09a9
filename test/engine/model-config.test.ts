import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EngineError } from "../../src/engine/errors.js";
import { parseModelConfig } from "../../src/engine/model-config.js";

const GOLDEN = new URL("../fixtures/golden/", import.meta.url);
const MODELS = ["llama-tied", "llama3-rope", "llama-linear", "llama-yarn", "qwen2", "qwen3"];

/** The least a Llama config says. */
const LLAMA = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};
const QWEN3 = { ...LLAMA, model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], num_key_value_heads: 2 };
const QWEN2 = { ...QWEN3, model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] };

const parse = (json: unknown) => parseModelConfig(JSON.stringify(json), "config.json");

function failure(json: unknown): EngineError {
  try {
    parse(json);
  } catch (error) {
    expect(error).toBeInstanceOf(EngineError);
    return error as EngineError;
  }
  throw new Error("expected the configuration to be refused");
}

/** Distance in units of the last place of fp32. */
function ulps(a: number, b: number): number {
  const bits = new Int32Array(new Float32Array([a, b]).buffer);
  return Math.abs((bits[0] ?? 0) - (bits[1] ?? 0));
}

describe("rotary frequencies", () => {
  it.each(MODELS)("are those of transformers for %s", (name) => {
    const config = parseModelConfig(readFileSync(new URL(`${name}/config.json`, GOLDEN), "utf8"), name);
    const golden = JSON.parse(readFileSync(new URL(`${name}/golden.json`, GOLDEN), "utf8")).rope;
    expect(config.native.invFreq).toHaveLength(golden.invFreq.length);
    expect(ulps(config.native.ropeFactor, golden.factor)).toBe(0);
    // PyTorch's vectorized fp32 power is within one ulp of the truth; the scalings add at most one rounding to that.
    golden.invFreq.forEach((expected: number, i: number) => {
      expect(ulps(config.native.invFreq[i] ?? Number.NaN, expected), `frequency ${i}`).toBeLessThanOrEqual(2);
    });
  });

  it("are the same from either generation of the file format", () => {
    const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };
    const old = parse({ ...LLAMA, rope_theta: 500, rope_scaling: { rope_type: "llama3", ...scaling } });
    const current = parse({ ...LLAMA, rope_parameters: { rope_type: "llama3", rope_theta: 500, ...scaling } });
    expect(old.native).toEqual(current.native);
    const plain = parse({ ...LLAMA, rope_theta: 500 });
    expect(plain.native.invFreq).not.toEqual(old.native.invFreq);
    expect(parse({ ...LLAMA, rope_theta: 500, rope_scaling: null }).native).toEqual(plain.native);
    expect(parse({ ...LLAMA, rope_theta: 500, rope_scaling: { type: "linear", factor: 2 } }).native.invFreq).toEqual(
      plain.native.invFreq.map((x) => x / 2),
    );
  });

  it("take theta 10000 where the file has none", () => {
    expect(parse(LLAMA).native).toEqual(parse({ ...LLAMA, rope_theta: 10000 }).native);
  });

  it("yarn takes an explicit attention factor, and a factor from the two context lengths", () => {
    const yarn = { rope_type: "yarn", rope_theta: 1000, original_max_position_embeddings: 64 };
    const derived = parse({ ...LLAMA, max_position_embeddings: 256, rope_parameters: yarn });
    const stated = parse({ ...LLAMA, max_position_embeddings: 256, rope_parameters: { ...yarn, factor: 4 } });
    expect(derived.native).toEqual(stated.native);
    expect(stated.native.ropeFactor).toBe(Math.fround(0.1 * Math.log(4) + 1));
    const explicit = { ...yarn, factor: 4, attention_factor: 1.5 };
    expect(parse({ ...LLAMA, rope_parameters: explicit }).native.ropeFactor).toBe(1.5);
    const scales = { ...yarn, factor: 4, mscale: 1, mscale_all_dim: 1 };
    expect(parse({ ...LLAMA, rope_parameters: scales }).native.ropeFactor).toBe(1);
  });
});

describe("parseModelConfig", () => {
  it("fills in what transformers assumes", () => {
    const { native, dtype, eosTokens } = parse(LLAMA);
    expect(native).toMatchObject({
      kvHeads: 4,
      headDim: 8,
      maxPositions: 2048,
      normEps: 1e-6,
      tiedEmbeddings: false,
      qkvBias: false,
      qkNorm: false,
      ropeFactor: 1,
    });
    expect(dtype).toBeNull();
    expect(eosTokens).toEqual([]);
    expect(parse(QWEN3).native).toMatchObject({ headDim: 128, qkNorm: true, qkvBias: false, kvHeads: 2 });
    expect(parse(QWEN2).native).toMatchObject({ headDim: 8, qkNorm: false, qkvBias: true });
  });

  it("reads what is explicit", () => {
    const config = parse({
      ...LLAMA,
      head_dim: 16,
      tie_word_embeddings: true,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-5,
      torch_dtype: "bfloat16",
      eos_token_id: [2, 3],
      bos_token_id: 1,
      pad_token_id: -1,
    });
    expect(config.native).toMatchObject({ headDim: 16, tiedEmbeddings: true, kvHeads: 2, normEps: 1e-5 });
    expect(config).toMatchObject({ dtype: "BF16", eosTokens: [2, 3], bosToken: 1, padToken: null });
    expect(parse({ ...LLAMA, dtype: "float16" }).dtype).toBe("F16");
  });

  it("does not mind keys that change nothing", () => {
    const harmless = {
      attention_bias: false,
      mlp_bias: false,
      attention_dropout: 0.1,
      hidden_act: "silu",
      pretraining_tp: 1,
      use_cache: true,
      quantization_config: null,
      is_causal: true,
      per_layer_config: {},
      _name_or_path: "x",
      transformers_version: "4.41.0",
      layer_types: ["full_attention", "full_attention"],
    };
    expect(parse({ ...LLAMA, ...harmless }).native).toEqual(parse(LLAMA).native);
    // Qwen2.5 states a window that is switched off, or that begins above its last layer.
    const off = { use_sliding_window: false, sliding_window: 16, max_window_layers: 0 };
    expect(parse({ ...QWEN2, ...off }).native).toEqual(parse(QWEN2).native);
    const above = { use_sliding_window: true, sliding_window: 16, max_window_layers: 2 };
    expect(parse({ ...QWEN2, ...above }).native).toEqual(parse(QWEN2).native);
  });

  it.each<[string, object]>([
    ["model_type", { model_type: "mistral" }],
    ["architectures", { architectures: ["LlamaForSequenceClassification"] }],
    ["attention_bias", { attention_bias: true }],
    ["is_causal", { is_causal: false }],
    ["per_layer_config", { per_layer_config: { 0: { hidden_act: "gelu" } } }],
    ["per_layer_config", { per_layer_config: [{}] }],
    ["mlp_bias", { mlp_bias: true }],
    ["hidden_act", { hidden_act: "gelu" }],
    ["quantization_config", { quantization_config: { bits: 4 } }],
    ["pretraining_tp", { pretraining_tp: 2 }],
    ["partial_rotary_factor", { partial_rotary_factor: 0.5 }],
    ["rope_parameters.partial_rotary_factor", { rope_parameters: { partial_rotary_factor: 0.5 } }],
    ["layer_types", { layer_types: ["full_attention", "sliding_attention"] }],
    ["sliding_window", { sliding_window: 512 }],
    ["rope_scaling.type", { rope_scaling: { type: "dynamic", factor: 2 } }],
    ["rope_parameters.rope_type", { rope_parameters: { rope_type: "longrope", short_factor: [1] } }],
    ["rope_parameters.mrope_section", { rope_parameters: { rope_type: "default", mrope_section: [1, 2] } }],
    ["rope_parameters.full_attention", { rope_parameters: { full_attention: { rope_type: "default" } } }],
    ["attention_multiplier", { attention_multiplier: 0.0625 }],
    ["logits_scaling", { logits_scaling: 8 }],
    ["residual_multiplier", { residual_multiplier: 0.22 }],
    ["final_logit_softcapping", { final_logit_softcapping: 30 }],
    ["num_local_experts", { num_local_experts: 8 }],
    ["rope_interleaved", { rope_interleaved: true }],
    ["torch_dtype", { torch_dtype: "float8_e4m3fn" }],
  ])("refuses %s that changes the computation", (key, change) => {
    const error = failure({ ...LLAMA, ...change });
    expect(error.code).toBe("MODEL_UNSUPPORTED");
    expect(error.message).toContain(`\`${key}\``);
  });

  it("refuses a sliding window in use", () => {
    const window = { use_sliding_window: true, sliding_window: 16, max_window_layers: 1 };
    for (const base of [QWEN2, QWEN3]) expect(failure({ ...base, ...window }).code).toBe("MODEL_UNSUPPORTED");
    // Null is as no key: transformers derives the layers that slide.
    const derived = { use_sliding_window: true, sliding_window: 4, max_window_layers: 0, layer_types: null };
    for (const base of [QWEN2, QWEN3])
      expect(failure({ ...base, ...derived })).toMatchObject({
        code: "MODEL_UNSUPPORTED",
        message: expect.stringContaining("`sliding_window`"),
      });
  });

  it.each<[string, object]>([
    ["model_type", { model_type: undefined }],
    ["vocab_size", { vocab_size: undefined }],
    ["vocab_size", { vocab_size: 0 }],
    ["hidden_size", { hidden_size: 30 }],
    ["hidden_size", { hidden_size: "32" }],
    ["num_hidden_layers", { num_hidden_layers: 1.5 }],
    ["num_key_value_heads", { num_key_value_heads: 3 }],
    ["head_dim", { head_dim: 7 }],
    ["head_dim", { head_dim: 2 ** 30 }],
    ["num_hidden_layers", { num_hidden_layers: 2 ** 30 }],
    ["rope_theta", { rope_theta: 1e-320 }],
    ["rms_norm_eps", { rms_norm_eps: 0 }],
    ["rope_theta", { rope_theta: -1 }],
    ["rope_theta", { rope_theta: 1000, rope_parameters: { rope_theta: 2000 } }],
    ["rope_scaling", { rope_scaling: { type: "linear", factor: 2 }, rope_parameters: { rope_type: "default" } }],
    ["rope_scaling.factor", { rope_scaling: { type: "linear" } }],
    ["rope_scaling.type", { rope_scaling: { type: "linear", rope_type: "yarn", factor: 2 } }],
    [
      "rope_scaling.high_freq_factor",
      {
        rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 4 },
      },
    ],
    ["layer_types", { layer_types: ["full_attention"] }],
    ["tie_word_embeddings", { tie_word_embeddings: "yes" }],
    ["eos_token_id", { eos_token_id: 64 }],
    ["eos_token_id", { eos_token_id: [1, null] }],
  ])("names a malformed %s", (key, change) => {
    const error = failure({ ...LLAMA, ...change });
    expect(error.code).toBe("MODEL_CONFIG");
    expect(error.message).toContain(`\`${key}\``);
  });

  it("wants Qwen's key-value heads stated", () => {
    expect(failure({ ...QWEN2, num_key_value_heads: undefined }).message).toContain("num_key_value_heads");
    expect(parse({ ...QWEN2, num_key_value_heads: null }).native.kvHeads).toBe(4);
  });

  it("answers any change of a valid file with a configuration or a typed error", () => {
    const key = fc.constantFrom(
      ...Object.keys({ ...QWEN2, rope_theta: 0, rope_scaling: 0, rope_parameters: 0, head_dim: 0 }),
    );
    const setting = fc.constantFrom("rope_type", "type", "factor", "rope_theta", "low_freq_factor", "attention_factor");
    const value = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(0, -1, 1e308, 2 ** 31, 0.5, "", "yarn", "llama3", "linear", null),
      fc.dictionary(setting, fc.oneof(fc.constantFrom("yarn", "llama3", "linear", "default"), fc.double())),
    );
    fc.assert(
      fc.property(fc.constantFrom(LLAMA, QWEN2, QWEN3), key, value, (base, changed, to) => {
        try {
          const { native } = parse({ ...base, [changed]: to });
          expect(native.invFreq).toHaveLength(native.headDim / 2);
          expect(native.invFreq.every((x) => Number.isFinite(x))).toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(EngineError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("refuses what is no JSON object", () => {
    for (const text of ["", "{", "[]", "null", '"llama"']) {
      expect(() => parseModelConfig(text, "config.json")).toThrow(EngineError);
    }
  });
});
