/** How the ids of entities become the names that an agent reads. */

/**
 * Shown names of entities, e.g. `cabinet 8`.
 *
 * Ids are sorted by code unit. The class is the text before the first `_bar_`, followed by `basin` where the id has that
 * word anywhere; the numbers of a class run downwards in sorted order, so its first id gets the highest number. An id
 * without `_bar_` keeps its text and is followed by a space (as in the original). Ids must be lower-case.
 */
export function nameEntities(ids: Iterable<string>): Map<string, string> {
  const sorted = [...new Set(ids)].sort();
  const left = new Map<string, number>();
  for (const id of sorted) {
    const entity = classOf(id);
    if (entity !== null) left.set(entity, (left.get(entity) ?? 0) + 1);
  }
  const names = new Map<string, string>();
  for (const id of sorted) {
    const entity = classOf(id);
    if (entity === null) {
      names.set(id, `${demangle(id)} `);
      continue;
    }
    const number = left.get(entity) ?? 0;
    left.set(entity, number - 1);
    names.set(id, `${demangle(entity)} ${number}`);
  }
  return names;
}

/** Class of an id, e.g. `sinkbasin`, or null for ids that are not numbered. */
function classOf(id: string): string | null {
  const bar = id.indexOf("_bar_");
  if (bar < 0) return null;
  return id.slice(0, bar) + (id.includes("basin") ? "basin" : "");
}

function demangle(text: string): string {
  return text.replaceAll("_minus_", "-").replaceAll("_plus_", "+").replaceAll("_dot_", ".").replaceAll("_comma_", ",");
}

/** Class of a shown name: `cabinet 8` -> `cabinet`. */
export function shownClass(name: string): string {
  const space = name.lastIndexOf(" ");
  return space < 0 ? name : name.slice(0, space);
}
