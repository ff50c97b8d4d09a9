/** Where the files that come with the package lie: `assets/webshop` beside `src` and `dist`, which the build does not copy. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("../../../assets/webshop", import.meta.url));

/** Path of a file or folder under `assets/webshop`. */
export function assetPath(name: string): string {
  return join(FOLDER, name);
}
