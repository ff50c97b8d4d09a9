/** The colour words of WebShop's option match, in its order. */
const COLORS: readonly string[] = (
  "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo " +
  "caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal " +
  "dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo " +
  "ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor " +
  "mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand " +
  "sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut " +
  "wheat white wine yellow"
).split(" ");

/** The first colour word that occurs anywhere in the value (`standard` holds `tan`), else the value itself. */
export function normalizeColor(value: string): string {
  return COLORS.find((color) => value.includes(color)) ?? value;
}

/**
 * The same for a (name, value) pair of a synthetic goal, where the original asks whether the *pair* contains a colour
 * word, that is, whether name or value is one. Null where neither is.
 */
export function colorOfPair(name: string, value: string): string | null {
  return COLORS.find((color) => color === name || color === value) ?? null;
}
