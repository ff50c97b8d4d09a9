/**
 * Reading requests and writing answers: JSON bodies with a size limit, errors in the API's shape.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { ApiError, apiErrorBody } from "./api-error.js";

/**
 * The JSON value of a request's body.
 *
 * @throws ApiError 413 `body_too_large`, 415 `unsupported_media_type`, 400 `invalid_json`.
 */
export async function readJson(request: IncomingMessage, maxBytes: number): Promise<unknown> {
  const type = request.headers["content-type"] ?? "";
  // A web page may send a form to any address; it may not send JSON to one that did not ask for it.
  if (!/^application\/json\b/iu.test(type))
    throw new ApiError(
      415,
      "unsupported_media_type",
      `Expected content type application/json, got ${type || "none"}.`,
      { hint: "Send the header `content-type: application/json`." },
    );
  const tooLarge = (): ApiError =>
    new ApiError(413, "body_too_large", `The body is larger than ${maxBytes} bytes.`, {
      hint: "Raise the server's `maxBodyBytes`.",
    });
  if (Number(request.headers["content-length"] ?? 0) > maxBytes) throw tooLarge();
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request) {
      const part = chunk as Buffer;
      size += part.length;
      if (size > maxBytes) throw tooLarge();
      parts.push(part);
    }
  } catch (cause) {
    if (cause instanceof ApiError) throw cause;
    throw new ApiError(499, "client_closed", "The client has gone.", { cause });
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts)));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ApiError(400, "invalid_json", `The body is not JSON: ${reason}.`, { cause });
  }
}

/** Whether the request carries the key. Takes the same time whatever it carries. */
export function isAuthorized(request: IncomingMessage, apiKey: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(request.headers.authorization ?? ""), digest(`Bearer ${apiKey}`));
}

export function sendJson(response: ServerResponse, status: number, value: unknown): void {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { "content-type": "application/json; charset=utf-8", "content-length": body.length });
  response.end(body);
}

export function sendError(response: ServerResponse, error: ApiError): void {
  if (error.status === 429) response.setHeader("retry-after", "1");
  // Whatever is left of an unread body must not be taken for the next request.
  if (error.status === 413) response.setHeader("connection", "close");
  sendJson(response, error.status, apiErrorBody(error));
}

/** Answers what is no HTTP request, or one that did not come whole in time. There is no response object for it. */
export function refuseConnection(cause: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || cause.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const late = cause.code === "ERR_HTTP_REQUEST_TIMEOUT";
  const error = late
    ? new ApiError(408, "request_timeout", "The request did not come in time.")
    : new ApiError(400, "bad_request", "This is not an HTTP request.");
  const body = JSON.stringify(apiErrorBody(error));
  const head = `HTTP/1.1 ${error.status} ${late ? "Request Timeout" : "Bad Request"}\r\nconnection: close\r\n`;
  socket.end(`${head}content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}
