/**
 * Steps a second of the WebShop environment on one core, by the clock and by processor time.
 *
 * Usage, after `npm run build:ts`: node bench/webshop.mjs [folder of WebShop files]
 *
 * Play is random but seeded: a search with some goal's words on the search page and in a fifth of the other steps, else
 * a click on anything listed; admissible actions are asked for at every step, episodes end at a purchase or 15 steps.
 */
import { webshopProvider } from "../dist/environments/webshop/webshop.js";

const SECONDS = 5;
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

const [data = null] = process.argv.slice(2);

for (const goals of ["human", "synthetic"]) {
  const loadStarted = performance.now();
  const provider = await webshopProvider({ data, goals });
  const loadMs = performance.now() - loadStarted;
  const environment = await provider.create();
  const { shop } = provider;
  let seed = 1;
  const below = (n) => {
    seed = (seed * 48271) % 2147483647;
    return seed % n;
  };
  let steps = 0;
  let episodes = 0;
  const started = performance.now();
  const cpuStarted = cpuSeconds();
  while (performance.now() - started < SECONDS * 1000) {
    await environment.reset(`${goals}/${below(shop.goals.length)}`);
    episodes++;
    for (let over = false; !over; ) {
      const { actions, patterns } = await environment.admissibleActions();
      const search = patterns.length > 0 || below(5) === 0;
      const words = shop.goals[below(shop.goals.length)].instructionText.replace(/, and price lower.*/, "");
      const transition = await environment.step(search ? `search[${words}]` : actions[below(actions.length)]);
      steps++;
      over = transition.terminated || transition.truncated;
    }
  }
  const seconds = (performance.now() - started) / 1000;
  const cpu = cpuSeconds() - cpuStarted;
  console.log(
    JSON.stringify({
      goals,
      products: shop.products.length,
      load_ms: Math.round(loadMs),
      episodes,
      steps_per_s: Math.round(steps / seconds),
      steps_per_cpu_s: Math.round(steps / cpu),
    }),
  );
}
