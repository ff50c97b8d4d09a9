/**
 * Faults as the OpenAI API reports them: a status code and `{"error": {"message", "type", "param", "code"}}`.
 */
import { ActError } from "../errors.js";

export type ApiErrorType = "invalid_request_error" | "authentication_error" | "rate_limit_error" | "server_error";

/** A fault that a client of the endpoint is told of. `code` is in the small letters of the API. */
export class ApiError extends ActError {
  override readonly name = "ApiError";
  /** HTTP status. */
  readonly status: number;
  /** Name of the offending parameter, or null. */
  readonly param: string | null;

  constructor(
    status: number,
    code: string,
    message: string,
    options: { param?: string; hint?: string; cause?: unknown } = {},
  ) {
    super(code, message, options);
    this.status = status;
    this.param = options.param ?? null;
  }
}

/** The body of an error answer. */
export interface ApiErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: ApiErrorType;
    readonly param: string | null;
    readonly code: string;
  };
}

/** What the engine, the tokenizer and the template complain of when a request is at fault. */
const REQUEST_FAULTS: Readonly<Record<string, string>> = {
  PROMPT_TOO_LONG: "context_length_exceeded",
  CACHE_TOO_SMALL: "context_length_exceeded",
  TOKEN_OUT_OF_RANGE: "token_out_of_range",
  TEMPLATE_CONTROL_TOKEN: "control_token",
  TEMPLATE_FAILED: "chat_template_failed",
  TEMPLATE_NOT_APPENDABLE: "chat_template_failed",
  BAD_ARGUMENT: "invalid_value",
};

/** Anything thrown, as an {@link ApiError}. What is no typed error tells the client nothing but that it happened. */
export function asApiError(cause: unknown): ApiError {
  if (cause instanceof ApiError) return cause;
  if (!(cause instanceof ActError))
    return new ApiError(500, "internal_error", "The server failed in an unforeseen way.", { cause });
  const code = REQUEST_FAULTS[cause.code];
  if (code !== undefined) return new ApiError(400, code, cause.message, { cause });
  const status = cause.code === "DISPOSED" || cause.code === "OUT_OF_MEMORY" ? 503 : 500;
  return new ApiError(status, cause.code.toLowerCase(), cause.message, { cause });
}

export function apiErrorBody(error: ApiError): ApiErrorBody {
  const { message, param, code, status } = error;
  const type: ApiErrorType =
    status === 401
      ? "authentication_error"
      : status === 429
        ? "rate_limit_error"
        : status >= 500
          ? "server_error"
          : "invalid_request_error";
  return { error: { message, type, param, code } };
}
