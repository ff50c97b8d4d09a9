/** Names and shapes of the tensors that a configuration has, as Hugging Face stores them. */
import type { NativeModelConfig } from "./native.js";

/** Base tensors in name order (adapters apart); [rows = outputs, columns = inputs] for matrices. */
export function expectedTensors(config: NativeModelConfig): ReadonlyMap<string, readonly number[]> {
  const { vocabSize, hiddenSize, headDim, intermediateSize } = config;
  const query = config.heads * headDim;
  const kv = config.kvHeads * headDim;
  const shapes: [string, number[]][] = [
    ["model.embed_tokens.weight", [vocabSize, hiddenSize]],
    ["model.norm.weight", [hiddenSize]],
  ];
  if (!config.tiedEmbeddings) shapes.push(["lm_head.weight", [vocabSize, hiddenSize]]);
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}.`;
    shapes.push(
      [`${layer}input_layernorm.weight`, [hiddenSize]],
      [`${layer}post_attention_layernorm.weight`, [hiddenSize]],
      [`${layer}self_attn.q_proj.weight`, [query, hiddenSize]],
      [`${layer}self_attn.k_proj.weight`, [kv, hiddenSize]],
      [`${layer}self_attn.v_proj.weight`, [kv, hiddenSize]],
      [`${layer}self_attn.o_proj.weight`, [hiddenSize, query]],
      [`${layer}mlp.gate_proj.weight`, [intermediateSize, hiddenSize]],
      [`${layer}mlp.up_proj.weight`, [intermediateSize, hiddenSize]],
      [`${layer}mlp.down_proj.weight`, [hiddenSize, intermediateSize]],
    );
    if (config.qkvBias)
      shapes.push(
        [`${layer}self_attn.q_proj.bias`, [query]],
        [`${layer}self_attn.k_proj.bias`, [kv]],
        [`${layer}self_attn.v_proj.bias`, [kv]],
      );
    if (config.qkNorm)
      shapes.push([`${layer}self_attn.q_norm.weight`, [headDim]], [`${layer}self_attn.k_norm.weight`, [headDim]]);
  }
  return new Map(shapes.sort(([a], [b]) => (a < b ? -1 : 1)));
}
