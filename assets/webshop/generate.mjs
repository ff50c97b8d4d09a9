/**
 * Writes the made-up shop of a hundred products: items_shuffle.json, items_ins_v2.json, items_human_ins.json.
 *
 * Usage: node assets/webshop/generate.mjs
 *
 * Same files and fields as the original WebShop, so whatever works on these works on those. Brands, texts and prices
 * are invented; the same seed gives the same bytes. tests/environments/webshop-made-up.test.ts checks that the files
 * are what this program writes.
 */
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PRODUCTS_PER_KIND = 5;
const INSTRUCTIONS_PER_PRODUCT = 4;

const COLORS = ["black", "white", "navy", "dark green", "light grey", "burgundy", "rose gold", "mustard", "teal"];
const SIZES = ["x-small", "small", "medium", "large", "x-large", "xx-large"];
const BRANDS = "Orvane Quillby Tamsin Belmora Haldor Nuvero Pellwyn Corvance Isolde Brackmoor Vantry Selwick".split(
  " ",
);

/** department, shop query, category path, title words, attributes, option groups, price range */
const KINDS = [
  [
    "fashion",
    "men's dress shirts",
    "Clothing › Men › Shirts › Dress Shirts",
    "Dress Shirt",
    ["long sleeve", "machine wash", "slim fit", "button closure", "wrinkle free", "cotton blend"],
    { color: COLORS, size: SIZES },
    [18, 55],
  ],
  [
    "fashion",
    "women's sandals",
    "Clothing › Women › Shoes › Sandals",
    "Strap Sandals",
    ["open toe", "ankle strap", "rubber sole", "memory foam", "arch support", "high heel"],
    { color: COLORS, size: ["5", "6", "6.5", "7", "8", "9.5"] },
    [22, 70],
  ],
  [
    "fashion",
    "women's sweaters",
    "Clothing › Women › Sweaters › Pullovers",
    "Knit Pullover Sweater",
    ["long sleeve", "loose fit", "hand wash", "soft material", "crew neck", "cable knit"],
    { color: COLORS, size: SIZES },
    [20, 60],
  ],
  [
    "fashion",
    "men's shorts",
    "Clothing › Men › Shorts › Athletic",
    "Running Shorts",
    ["quick drying", "elastic waist", "drawstring closure", "moisture wicking", "side pockets"],
    { color: COLORS, size: SIZES },
    [12, 35],
  ],
  [
    "beauty",
    "shampoo & conditioner",
    "Beauty › Hair Care › Shampoo",
    "Repair Shampoo",
    ["sulfate free", "argan oil", "damaged hair", "cruelty free", "tea tree", "paraben free"],
    { scent: ["coconut", "lavender", "green apple"], size: ["8 ounce", "16 ounce", "32 ounce"] },
    [7, 28],
  ],
  [
    "beauty",
    "face serums",
    "Beauty › Skin Care › Face › Serums",
    "Hydrating Face Serum",
    ["hyaluronic acid", "dark spots", "fine lines", "fragrance free", "dry skin", "vitamin c"],
    { size: ["1 fl oz", "2 fl oz"] },
    [9, 45],
  ],
  [
    "beauty",
    "makeup brushes",
    "Beauty › Tools › Makeup Brushes",
    "Makeup Brush Set",
    ["synthetic hair", "easy clean", "travel size", "cruelty free", "eye shadow"],
    { color: ["black", "pink", "rose gold"], pieces: ["8 pieces", "12 pieces", "18 pieces"] },
    [8, 32],
  ],
  [
    "beauty",
    "toothbrushes",
    "Beauty › Oral Care › Toothbrushes",
    "Bamboo Toothbrush",
    ["eco friendly", "soft bristles", "bpa free", "sensitive teeth", "oral hygiene"],
    { count: ["pack of 2", "pack of 4", "pack of 8"] },
    [5, 18],
  ],
  [
    "garden",
    "table lamps",
    "Home › Lighting › Lamps › Table Lamps",
    "Bedside Table Lamp",
    ["living room", "glass shade", "dimmable light", "easy assemble", "solid wood", "warm white"],
    { color: ["black", "brass", "walnut"] },
    [19, 120],
  ],
  [
    "garden",
    "throw pillows",
    "Home › Bedding › Throw Pillow Covers",
    "Throw Pillow Cover",
    ["machine washable", "double sided", "hidden zipper", "living room", "exquisite workmanship"],
    { color: COLORS, size: ['16" x 16"', '18" x 18"', '20" x 20"'] },
    [6, 25],
  ],
  [
    "garden",
    "console tables",
    "Home › Furniture › Living Room Furniture › Tables",
    "Narrow Console Table",
    ["solid wood", "easy assemble", "metal legs", "storage space", "mid century"],
    { color: ["oak", "walnut", "white"], length: ["31 inch", "39 inch", "47 inch"] },
    [65, 340],
  ],
  [
    "garden",
    "shower curtains",
    "Home › Bath › Shower Curtains",
    "Printed Shower Curtain",
    ["water resistant", "machine washable", "metal grommets", "quick drying", "mildew proof"],
    { pattern: ["leaf", "stripe", "mountain"], size: ["60 x 72 inch", "72 x 72 inch"] },
    [11, 38],
  ],
  [
    "grocery",
    "tea",
    "Grocery › Beverages › Tea › Herbal",
    "Herbal Tea Bags",
    ["caffeine free", "non gmo", "individually wrapped", "usda organic", "natural ingredients"],
    { flavor: ["chamomile", "hibiscus", "ginger lemon"], count: ["20 bags", "50 bags", "100 bags"] },
    [4, 22],
  ],
  [
    "grocery",
    "granola bars",
    "Grocery › Snacks › Bars › Granola",
    "Granola Bars",
    ["gluten free", "high protein", "low sugar", "plant based", "nut free", "non gmo"],
    { flavor: ["dark chocolate", "peanut butter", "berry"], count: ["6 count", "12 count"] },
    [6, 26],
  ],
  [
    "grocery",
    "coffee",
    "Grocery › Beverages › Coffee › Ground",
    "Ground Coffee",
    ["medium roast", "fair trade", "low acid", "usda organic", "single origin"],
    { roast: ["light", "medium", "dark"], size: ["12 ounce", "2 pound"] },
    [8, 35],
  ],
  [
    "grocery",
    "nuts & seeds",
    "Grocery › Snacks › Nuts › Mixed",
    "Roasted Mixed Nuts",
    ["dry roasted", "lightly salted", "resealable bag", "high fiber", "artificial flavors"],
    { flavor: ["sea salt", "honey", "smoked paprika"], size: ["8 ounce (pack of 1)", "8 ounce (pack of 3)"] },
    [7, 30],
  ],
  [
    "electronics",
    "headphones",
    "Electronics › Headphones › Over-Ear",
    "Wireless Headphones",
    ["noise cancelling", "long battery life", "fast charging", "hands free", "carrying case"],
    { color: ["black", "white", "navy"] },
    [25, 180],
  ],
  [
    "electronics",
    "screen protectors",
    "Electronics › Phones › Accessories › Screen Protectors",
    "Glass Screen Protector",
    ["tempered glass", "easy install", "case friendly", "high definition", "anti fingerprint"],
    { "fit type": ["phone 11", "phone 12", "phone 13"], count: ["2 pack", "3 pack"] },
    [5, 20],
  ],
  [
    "electronics",
    "hdmi cables",
    "Electronics › Television › Cables › HDMI",
    "Braided HDMI Cable",
    ["gold plated", "high speed", "ultra hd", "nylon braided", "male to male"],
    { length: ["3 ft", "6 ft", "10 ft", "15 ft"] },
    [6, 28],
  ],
  [
    "electronics",
    "phone cases",
    "Electronics › Phones › Accessories › Cases",
    "Slim Phone Case",
    ["shock absorption", "wireless charging", "hands free", "tempered glass", "non slip"],
    { color: COLORS, "fit type": ["phone 11", "phone 12", "phone 13"] },
    [7, 30],
  ],
];

/** Park and Miller's generator: small, and the same everywhere. */
class Draw {
  #state = 20240501;
  below(n) {
    this.#state = (this.#state * 48271) % 2147483647;
    return this.#state % n;
  }
  pick(items) {
    return items[this.below(items.length)];
  }
  some(items, n) {
    const pool = [...items];
    return Array.from({ length: Math.min(n, pool.length) }, () => pool.splice(this.below(pool.length), 1)[0]);
  }
}

/** Contents of the three files by name. */
export function makeShop() {
  const draw = new Draw();
  const products = [];
  const attributeFile = {};
  const humanFile = {};
  for (const [kindIndex, kind] of KINDS.entries()) {
    for (let i = 0; i < PRODUCTS_PER_KIND; i++) {
      const product = makeProduct(
        draw,
        kind,
        `M${String(kindIndex * PRODUCTS_PER_KIND + i).padStart(3, "0")}SHOP${"ABCDE"[i]}0`,
      );
      const attributes = draw.some(kind[4], 3 + draw.below(2));
      products.push(product.raw(attributes));
      attributeFile[product.asin] = { attributes, ...(i % 2 === 0 ? synthetic(draw, kind[1], attributes) : {}) };
      humanFile[product.asin] = Array.from({ length: INSTRUCTIONS_PER_PRODUCT }, () =>
        human(draw, product.asin, kind[1], attributes, product.options),
      );
    }
  }
  for (let i = products.length - 1; i > 0; i--) {
    const j = draw.below(i + 1);
    [products[i], products[j]] = [products[j], products[i]];
  }
  return {
    "items_shuffle.json": products,
    "items_ins_v2.json": attributeFile,
    "items_human_ins.json": humanFile,
  };
}

function makeProduct(draw, [department, query, path, title, , optionPool, [low, high]], asin) {
  const brand = draw.pick(BRANDS);
  const options = Object.fromEntries(
    Object.entries(optionPool).map(([name, values]) => [name, draw.some(values, 2 + draw.below(3))]),
  );
  const cents = () => low * 100 + draw.below((high - low) * 100);
  const [a, b] = [cents(), cents()].sort((x, y) => x - y).map((c) => `$${(c / 100).toFixed(2)}`);
  // One in ten has no price and two in ten a range, as in the original.
  const pricing = ["", `${a} to ${b}`, `${a} to ${b}`][draw.below(10)] ?? a;
  return {
    asin,
    options,
    raw: (attributes) => ({
      name: `${brand} ${title}, ${attributes.slice(0, 2).map(capitalize).join(" and ")}`,
      full_description: `The ${brand} ${title.toLowerCase()} is made for every day. Good to know: ${attributes.join(", ")}.`,
      pricing,
      images: ["https://example.com/picture.jpg"],
      product_category: path,
      average_rating: "",
      small_description: [
        ...attributes.map((attribute) => `${capitalize(attribute)}: a ${title.toLowerCase()} that you will keep. `),
        `By ${brand}. `,
      ],
      customization_options: Object.fromEntries(
        Object.entries(options).map(([name, values]) => [
          capitalize(name),
          values.map((value) => ({ value, image: null })),
        ]),
      ),
      asin,
      category: department,
      query,
      page: 1,
    }),
  };
}

function synthetic(draw, query, attributes) {
  const chosen = draw.some(attributes, 1 + draw.below(3));
  const [first, ...rest] = chosen;
  const instruction = `Find me ${first} ${query}${rest.length > 0 ? ` with ${rest.join(", ")}` : ""}`;
  return { instruction, instruction_attributes: chosen };
}

function human(draw, asin, query, attributes, options) {
  const instruction_attributes = draw.some(attributes, 1 + draw.below(2));
  const names = draw.some(Object.keys(options), draw.below(Object.keys(options).length + 1));
  const instruction_options = names.map((name) => draw.pick(options[name]));
  const wish = instruction_attributes.join(" and ");
  const choice = instruction_options.join(", ");
  const texts = [
    `i am looking for ${query} that are ${wish}${choice && ` in ${choice}`}.`,
    `i need ${wish} ${query}${choice && `, and i would like ${choice}`}`,
    `can you find me some ${query} with ${wish}?${choice && ` my choice is ${choice}.`}`,
    `looking for ${wish} ${query}${choice && ` - ${choice} please`}.`,
  ];
  return {
    asin,
    instruction: draw.pick(texts),
    attributes,
    options: Object.entries(options).map(([name, values]) => `${name}: ${values[0]}`),
    instruction_attributes,
    instruction_options,
  };
}

function capitalize(text) {
  return text.replace(/\b[a-z]/g, (letter) => letter.toUpperCase());
}

/** One element a line, so that changes can be read. */
export function fileText(content) {
  if (Array.isArray(content)) return `[\n${content.map((item) => JSON.stringify(item)).join(",\n")}\n]\n`;
  const lines = Object.entries(content).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  return `{\n${lines.join(",\n")}\n}\n`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const [name, content] of Object.entries(makeShop())) {
    writeFileSync(new URL(`data/${name}`, import.meta.url), fileText(content));
  }
}
