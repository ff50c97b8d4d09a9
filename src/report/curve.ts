/**
 * A curve as inline SVG: one line, its axis ranges, nothing to load.
 */
import { Html, html } from "./html.js";

export interface Curve {
  readonly title: string;
  /** Optimizer steps and values; steps without a value are left out by the caller. */
  readonly points: readonly { readonly step: number; readonly value: number }[];
  /** Fixed range of the value axis, e.g. [0, 1] for shares; else that of the values. */
  readonly range?: readonly [number, number];
}

const WIDTH = 300;
const HEIGHT = 110;
const LEFT = 44;
const BOTTOM = 18;
const TOP = 8;

/** Empty where there are fewer than two points. */
export function curveSvg({ title, points, range }: Curve): Html {
  const first = points[0];
  const last = points.at(-1);
  if (first === undefined || last === undefined || points.length < 2) return new Html("");
  const values = points.map((p) => p.value);
  const low = range?.[0] ?? values.reduce((a, b) => Math.min(a, b));
  const high = range?.[1] ?? values.reduce((a, b) => Math.max(a, b));
  const span = high - low || 1;
  const x = (step: number): number => LEFT + ((step - first.step) / (last.step - first.step)) * (WIDTH - LEFT - 6);
  const y = (value: number): number => TOP + (1 - (value - low) / span) * (HEIGHT - TOP - BOTTOM);
  const place = (number: number): string => number.toFixed(1);
  const path = points.map((p, i) => `${i === 0 ? "M" : "L"}${place(x(p.step))} ${place(y(p.value))}`).join("");
  return html`<figure><figcaption>${title}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title}, from ${tick(first.value)} to ${tick(last.value)}">
<path class="axis" d="M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - 6}"/>
<text x="${LEFT - 4}" y="${TOP + 8}" text-anchor="end">${tick(high)}</text>
<text x="${LEFT - 4}" y="${HEIGHT - BOTTOM}" text-anchor="end">${tick(low)}</text>
<text x="${LEFT}" y="${HEIGHT - 4}">${first.step}</text>
<text x="${WIDTH - 6}" y="${HEIGHT - 4}" text-anchor="end">step ${last.step}</text>
<path class="line" d="${path}"/>
</svg></figure>`;
}

/** At most four significant digits. */
function tick(value: number): string {
  return String(Number(value.toPrecision(3)));
}
