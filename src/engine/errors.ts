import { ActError } from "../errors.js";

/** Codes of every error the engine and its file readers throw, with what each means. */
export const ENGINE_ERROR_CODES = {
  // calls
  BAD_ARGUMENT: "an option or an argument is outside what is allowed",
  TOKEN_OUT_OF_RANGE: "a token id is not in the model's vocabulary",
  PROMPT_TOO_LONG: "a prompt leaves no room in the context",
  CACHE_TOO_SMALL: "a prompt and its longest completion do not fit the key-value cache",
  SEQUENCE_TOO_LONG: "a path of a token forest is longer than the model's context",
  BATCH_TOO_LARGE: "a tree of a token forest does not fit a micro-batch",
  UNKNOWN_TENSOR: "no tensor of the model has this name",
  NOT_LOADED: "a tensor has no values yet",
  BUSY: "the call changes weights while sequences are being sampled",
  ABORTED: "the call was cancelled",
  DISPOSED: "the engine was disposed",
  // resources
  MEMORY_PLAN: "the engine would need more memory than allowed",
  OUT_OF_MEMORY: "the machine refused memory",
  THREADS: "the machine refused threads",
  DEVICE_UNAVAILABLE: "the accelerator, its driver or its backend is missing or too old",
  DEVICE_LOST: "the accelerator stopped answering",
  DEVICE_NOT_FOUND: "the machine has no such device or instruction set",
  ADDON_NOT_FOUND: "the native addon is not built for this platform",
  INTERNAL: "a defect of the engine",
  NUMERICS: "a value is NaN or infinite",
  // model folders
  MODEL_NOT_FOUND: "a file of the model folder is missing",
  MODEL_CONFIG: "config.json is malformed or contradicts itself",
  MODEL_UNSUPPORTED: "the model computes something this engine does not",
  MODEL_TENSORS: "the tensors contradict config.json",
  SAFETENSORS: "a safetensors file or index is malformed",
  ADAPTER: "a folder of adapters is malformed, of another model, or uses what is not supported",
  STATE: "a folder of saved state is damaged, incomplete or of another model",
  FOLDER_EXISTS: "a folder to be written holds other files already",
} as const;

/** Codes of {@link EngineError}; {@link ENGINE_ERROR_CODES} says what each means. */
export type EngineErrorCode = keyof typeof ENGINE_ERROR_CODES;

/** Every fault of the engine: of a call, of the machine, of a model folder. */
export class EngineError extends ActError {
  override readonly name = "EngineError";
  declare readonly code: EngineErrorCode;

  constructor(code: EngineErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(code, message, options);
  }
}

export function isEngineErrorCode(code: unknown): code is EngineErrorCode {
  return typeof code === "string" && Object.hasOwn(ENGINE_ERROR_CODES, code);
}
