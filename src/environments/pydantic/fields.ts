/**
 * Checks of message fields with the rules, coercions and words of pydantic 2 in its lax mode.
 *
 * Only the kinds of fields that environment messages have. A client that shows a server's complaint to its user, or
 * lets a program read its `type` and `loc`, finds here what the Python servers send.
 */
import { pythonRepr, pythonType } from "./json.js";

/** One complaint, in pydantic's shape. */
export interface FieldError {
  readonly type: string;
  readonly loc: readonly (string | number)[];
  readonly msg: string;
  readonly input: unknown;
  readonly ctx?: Readonly<Record<string, unknown>>;
  readonly url?: string;
}

interface Common {
  readonly name: string;
  /** Value of a field that was left out; a field without one is required. */
  readonly fallback?: unknown;
  /** Whether null is a value. */
  readonly nullable?: boolean;
}

/** What a field takes. */
export type Field = Common &
  (
    | { readonly kind: "string"; readonly minLength?: number; readonly maxLength?: number }
    | { readonly kind: "integer"; readonly least?: number; readonly most?: number }
    | { readonly kind: "number"; readonly above?: number }
    | { readonly kind: "enum"; readonly values: readonly string[] }
    | { readonly kind: "literal"; readonly value: string }
    | { readonly kind: "object" }
    | { readonly kind: "any" }
  );

export interface CheckOptions {
  /** Path before the fields' names, e.g. `["body"]`. */
  readonly loc?: readonly string[];
  /** What becomes of unknown keys. */
  readonly extra: "forbid" | "keep" | "drop";
  /** Whether complaints carry pydantic's link; FastAPI leaves it out. */
  readonly url: boolean;
}

export type Checked =
  | { readonly ok: true; readonly values: Readonly<Record<string, unknown>> }
  | { readonly ok: false; readonly errors: readonly FieldError[] };

/** Version of pydantic whose links are sent. */
const PYDANTIC = "2.14";

/** Checks an object's fields, in their order, then its unknown keys. */
export function checkFields(
  fields: readonly Field[],
  input: Readonly<Record<string, unknown>>,
  options: CheckOptions,
): Checked {
  const errors: FieldError[] = [];
  const values: [string, unknown][] = [];
  const complain = (name: string, fault: Fault, given: unknown): void => {
    errors.push({
      type: fault.type,
      loc: [...(options.loc ?? []), name],
      msg: fault.msg,
      input: given,
      ...(fault.ctx === undefined ? {} : { ctx: fault.ctx }),
      ...(options.url ? { url: `https://errors.pydantic.dev/${PYDANTIC}/v/${fault.type}` } : {}),
    });
  };
  for (const field of fields) {
    if (!Object.hasOwn(input, field.name)) {
      if ("fallback" in field) values.push([field.name, field.fallback]);
      else complain(field.name, { type: "missing", msg: "Field required" }, input);
      continue;
    }
    const given = input[field.name];
    const outcome = given === null && field.nullable === true ? { value: null } : checkValue(field, given);
    if ("value" in outcome) values.push([field.name, outcome.value]);
    else complain(field.name, outcome, given);
  }
  for (const [name, given] of Object.entries(input)) {
    if (fields.some((field) => field.name === name) || options.extra === "drop") continue;
    if (options.extra === "keep") values.push([name, given]);
    else complain(name, { type: "extra_forbidden", msg: "Extra inputs are not permitted" }, given);
  }
  return errors.length > 0 ? { ok: false, errors } : { ok: true, values: Object.fromEntries(values) };
}

interface Fault {
  readonly type: string;
  readonly msg: string;
  readonly ctx?: Readonly<Record<string, unknown>>;
}

type Outcome = { readonly value: unknown } | Fault;

function checkValue(field: Field, given: unknown): Outcome {
  switch (field.kind) {
    case "any":
      return { value: given };
    case "object":
      if (isObject(given)) return { value: given };
      return { type: "dict_type", msg: "Input should be a valid dictionary" };
    case "enum": {
      if (field.values.some((value) => value === given)) return { value: given };
      const quoted = field.values.map(pythonRepr);
      const expected = [quoted.slice(0, -1).join(", "), quoted.at(-1)].filter((part) => part !== "").join(" or ");
      return { type: "enum", msg: `Input should be ${expected}`, ctx: { expected } };
    }
    case "literal": {
      if (given === field.value) return { value: given };
      const expected = pythonRepr(field.value);
      return { type: "literal_error", msg: `Input should be ${expected}`, ctx: { expected } };
    }
    case "string":
      return checkString(field, given);
    case "integer":
      return checkInteger(field, given);
    case "number":
      return checkNumber(field, given);
  }
}

function checkString(field: { minLength?: number; maxLength?: number }, given: unknown): Outcome {
  if (typeof given !== "string") return { type: "string_type", msg: "Input should be a valid string" };
  const length = [...given].length;
  const { minLength, maxLength } = field;
  if (minLength !== undefined && length < minLength)
    return {
      type: "string_too_short",
      msg: `String should have at least ${minLength} character${minLength === 1 ? "" : "s"}`,
      ctx: { min_length: minLength },
    };
  if (maxLength !== undefined && length > maxLength)
    return {
      type: "string_too_long",
      msg: `String should have at most ${maxLength} character${maxLength === 1 ? "" : "s"}`,
      ctx: { max_length: maxLength },
    };
  return { value: given };
}

function checkInteger(field: { least?: number; most?: number }, given: unknown): Outcome {
  let value: number;
  if (typeof given === "boolean") value = given ? 1 : 0;
  else if (typeof given === "number") {
    if (!Number.isFinite(given)) return { type: "finite_number", msg: "Input should be a finite number" };
    if (!Number.isInteger(given))
      return { type: "int_from_float", msg: "Input should be a valid integer, got a number with a fractional part" };
    value = given;
  } else if (typeof given === "string") {
    if (!/^\s*[+-]?\d+(_\d+)*(\.0*)?\s*$/.test(given))
      return { type: "int_parsing", msg: "Input should be a valid integer, unable to parse string as an integer" };
    value = Number(given.replaceAll("_", ""));
  } else return { type: "int_type", msg: "Input should be a valid integer" };
  const { least, most } = field;
  if (least !== undefined && value < least)
    return {
      type: "greater_than_equal",
      msg: `Input should be greater than or equal to ${least}`,
      ctx: { ge: least },
    };
  if (most !== undefined && value > most)
    return { type: "less_than_equal", msg: `Input should be less than or equal to ${most}`, ctx: { le: most } };
  return { value };
}

function checkNumber(field: { above?: number }, given: unknown): Outcome {
  let value: number;
  if (typeof given === "boolean") value = given ? 1 : 0;
  else if (typeof given === "number") value = given;
  else if (typeof given === "string") {
    value = given.trim() === "" ? Number.NaN : Number(given);
    if (Number.isNaN(value) && !/^\s*[+-]?nan\s*$/i.test(given))
      return { type: "float_parsing", msg: "Input should be a valid number, unable to parse string as a number" };
  } else return { type: "float_type", msg: "Input should be a valid number" };
  if (field.above !== undefined && !(value > field.above))
    return { type: "greater_than", msg: `Input should be greater than ${field.above}`, ctx: { gt: field.above } };
  return { value };
}

/** Whether a JSON value is an object. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The same complaints as one text, as `str(ValidationError)` gives them. */
export function describeFieldErrors(model: string, errors: readonly FieldError[]): string {
  const count = `${errors.length} validation error${errors.length === 1 ? "" : "s"} for ${model}`;
  const parts = errors.map((error) => {
    return (
      `${error.loc.join(".")}\n  ${error.msg} [type=${error.type}, input_value=${pythonRepr(error.input)}, ` +
      `input_type=${pythonType(error.input)}]\n    For further information visit https://errors.pydantic.dev/${PYDANTIC}/v/${error.type}`
    );
  });
  return [count, ...parts].join("\n");
}
