/**
 * The date formats that chat templates write, in English and UTC.
 */
import { ActError } from "../errors.js";

const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** C's strftime for %Y %y %m %d %B %b %A %a %H %M %S %%. Throws ActError `TEMPLATE_FAILED` for any other. */
export function strftime(format: string, date: Date): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const month = MONTHS[date.getUTCMonth()] ?? "";
  const day = DAYS[date.getUTCDay()] ?? "";
  const parts: Readonly<Record<string, string>> = {
    Y: String(date.getUTCFullYear()),
    y: two(date.getUTCFullYear() % 100),
    m: two(date.getUTCMonth() + 1),
    d: two(date.getUTCDate()),
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    H: two(date.getUTCHours()),
    M: two(date.getUTCMinutes()),
    S: two(date.getUTCSeconds()),
    "%": "%",
  };
  return format.replace(/%(.)/gu, (_, letter: string) => {
    const part = parts[letter];
    if (part === undefined)
      throw new ActError("TEMPLATE_FAILED", `The date format %${letter} is not known.`, {
        hint: `Use ${Object.keys(parts)
          .map((known) => `%${known}`)
          .join(" ")} in the template.`,
      });
    return part;
  });
}
