import { type ErrorCode, LonghaulError } from "../errors.js";

/** What a request is refused with, in the shape that OpenAI's clients know. */
export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly code: string | null;
  /** The field of the request that is wrong. */
  readonly param: string | null;
  /** Seconds after which to come again. */
  readonly retryAfter: number | undefined;

  constructor(
    status: number,
    message: string,
    {
      type = status < 500 ? "invalid_request_error" : "server_error",
      code = null,
      param = null,
      retryAfter,
    }: { type?: string; code?: string | null; param?: string | null; retryAfter?: number } = {},
  ) {
    super(message);
    this.status = status;
    this.type = type;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** The request asks for something that this server does not do. */
export function unsupported(param: string, message: string): ApiError {
  return new ApiError(400, message, { param, code: "unsupported_parameter" });
}

const STATUS: Readonly<Record<ErrorCode, number>> = {
  ERR_INVALID_ARGUMENT: 400,
  ERR_UNSUPPORTED: 400,
  ERR_OVERLOADED: 429,
  ERR_OUT_OF_MEMORY: 503,
  ERR_DISPOSED: 503,
  ERR_DEVICE_LOST: 503,
  ERR_COMMUNICATION: 503,
  ERR_CORRUPT_FILE: 500,
  ERR_INTERNAL: 500,
};

/** Anything thrown, as an answer to the client. What is no known error tells nothing of the server's insides. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (!(error instanceof LonghaulError)) return new ApiError(500, "the server failed at this request");
  const status = STATUS[error.code];
  const retryAfter = status === 429 || error.code === "ERR_OUT_OF_MEMORY" ? 1 : undefined;
  return new ApiError(status, error.message, {
    code: error.code,
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });
}

export function errorBody({ message, type, param, code }: ApiError): object {
  return { error: { message, type, param, code } };
}

export function errorResponse(error: ApiError): Response {
  const headers: Record<string, string> = {};
  if (error.retryAfter !== undefined) headers["retry-after"] = String(error.retryAfter);
  if (error.status === 401) headers["www-authenticate"] = "Bearer";
  return Response.json(errorBody(error), { status: error.status, headers });
}
