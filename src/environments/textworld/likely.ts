/**
 * Common sense of the hand-coded expert: in which classes of receptacle an object may be.
 *
 * These are the pairs of ALFWorld's own table of what may hold what. Classes are shown classes.
 */
const PLACES: Readonly<Record<string, string>> = {
  alarmclock: "desk dresser shelf sidetable",
  apple: "countertop diningtable fridge garbagecan microwave sidetable sinkbasin",
  baseballbat: "bed sidetable",
  basketball: "bed desk dresser",
  book: "armchair bed cabinet coffeetable countertop desk diningtable drawer dresser shelf sidetable sofa",
  bowl: "cabinet countertop desk diningtable dresser fridge microwave shelf sidetable sinkbasin",
  box: "armchair cabinet coffeetable desk diningtable dresser ottoman shelf sidetable sofa",
  bread: "countertop diningtable fridge garbagecan microwave sidetable",
  butterknife: "countertop diningtable drawer sidetable sinkbasin",
  candle: "cabinet cart coffeetable countertop diningtable drawer dresser shelf sidetable toilet",
  cd: "cabinet desk drawer dresser garbagecan shelf sidetable",
  cellphone: "armchair bed coffeetable desk drawer dresser shelf sidetable sofa",
  cloth:
    "armchair bathtubbasin cabinet cart countertop desk drawer dresser garbagecan laundryhamper shelf sidetable sinkbasin toilet",
  creditcard: "armchair coffeetable countertop desk diningtable drawer dresser ottoman shelf sidetable sofa",
  cup: "cabinet countertop diningtable fridge microwave shelf sidetable sinkbasin",
  desklamp: "coffeetable desk diningtable dresser shelf sidetable tvstand",
  dishsponge: "bathtubbasin cabinet cart countertop diningtable drawer garbagecan shelf sidetable sinkbasin toilet",
  egg: "countertop diningtable fridge garbagecan microwave sidetable sinkbasin",
  floorlamp: "armchair coffeetable desk diningtable dresser shelf sidetable sofa tvstand",
  fork: "countertop diningtable drawer sidetable sinkbasin",
  glassbottle: "cabinet countertop diningtable fridge microwave shelf sinkbasin",
  handtowel: "bathtubbasin cabinet cart countertop drawer garbagecan handtowelholder shelf sinkbasin toilet",
  kettle: "cabinet countertop diningtable shelf sinkbasin stoveburner",
  keychain: "armchair coffeetable desk diningtable drawer dresser ottoman shelf sidetable sofa",
  knife: "countertop diningtable drawer sidetable sinkbasin",
  ladle: "cabinet countertop diningtable drawer sinkbasin",
  laptop: "armchair bed coffeetable desk diningtable dresser ottoman sidetable sofa",
  lettuce: "countertop diningtable fridge garbagecan sidetable sinkbasin",
  mug: "cabinet coffeemachine countertop desk diningtable dresser fridge microwave shelf sidetable sinkbasin",
  newspaper: "armchair coffeetable drawer garbagecan shelf sidetable sofa",
  pan: "cabinet countertop diningtable fridge sidetable sinkbasin stoveburner",
  pen: "coffeetable desk drawer dresser garbagecan shelf sidetable",
  pencil: "coffeetable countertop desk drawer dresser garbagecan shelf sidetable",
  peppershaker: "cabinet countertop diningtable drawer shelf sidetable",
  pillow: "armchair bed ottoman sofa",
  plate: "cabinet coffeetable countertop diningtable fridge microwave shelf sidetable sinkbasin",
  plunger: "cabinet cart",
  pot: "cabinet countertop diningtable fridge shelf sidetable sinkbasin stoveburner",
  potato: "countertop diningtable fridge garbagecan microwave sidetable sinkbasin",
  remotecontrol: "armchair coffeetable desk diningtable drawer dresser ottoman shelf sidetable sofa",
  saltshaker: "cabinet countertop diningtable drawer shelf sidetable",
  soapbar: "bathtubbasin cabinet cart countertop drawer garbagecan shelf sinkbasin toilet",
  soapbottle: "cabinet cart countertop diningtable drawer garbagecan shelf sidetable toilet",
  spatula: "countertop diningtable drawer sidetable sinkbasin",
  spoon: "countertop diningtable drawer sidetable sinkbasin",
  spraybottle: "cabinet cart countertop drawer dresser garbagecan shelf toilet",
  statue: "coffeetable countertop desk diningtable dresser shelf sidetable",
  tennisracket: "bed desk sidetable",
  tissuebox: "cart coffeetable countertop desk diningtable drawer dresser garbagecan shelf sidetable tvstand toilet",
  toiletpaper: "cabinet cart countertop drawer dresser garbagecan shelf toilet toiletpaperhanger",
  tomato: "countertop diningtable fridge garbagecan microwave sidetable sinkbasin",
  towel: "towelholder",
  vase: "cabinet coffeetable countertop diningtable shelf sidetable",
  watch: "coffeetable desk drawer dresser shelf sidetable",
  wateringcan: "cabinet coffeetable diningtable drawer dresser sidetable",
  winebottle: "cabinet countertop diningtable fridge garbagecan shelf",
};

const SETS: ReadonlyMap<string, ReadonlySet<string>> = new Map(
  Object.entries(PLACES).map(([object, places]) => [object, new Set(places.split(" "))]),
);

/** Classes of receptacle that may hold an object of a class; empty for a class nothing is known of. */
export function placesOf(objectClass: string): ReadonlySet<string> {
  return SETS.get(objectClass) ?? new Set();
}
