// Speed of the text worlds in steps per CPU second on one core, the admissible list asked for at every step:
//
//   npm run build:ts && node bench/text-worlds.mjs [--games DIR]
//
// Actions are random and admissible. `with setup` counts generating the game; `expert` also asks the hand-coded expert
// at every step and carries out what it says. DIR is a folder of ALFWorld games; each is loaded once before anything is
// played, timed by the clock from its file to its first state.
import { parseArgs } from "node:util";
import { alfworldProvider } from "../dist/environments/alfworld/alfworld.js";
import { loadGame } from "../dist/environments/alfworld/game.js";
import { householdEpisode } from "../dist/environments/household/household.js";
import { panelTasks } from "../dist/environments/household/panels.js";
import { IntegerRandom } from "../dist/environments/household/random.js";
import { TextWorld } from "../dist/environments/textworld/rules.js";

const { values } = parseArgs({ options: { games: { type: "string" } } });
const random = new IntegerRandom("text-worlds");

/** CPU seconds so far: other processes on the machine do not count. */
const seconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
const show = (name, figure) => console.log(`${name.padEnd(42)} ${figure}`);
const rate = (steps, time) => `${Math.round(steps / time).toLocaleString("en")} steps/s`;

function household(asked) {
  let steps = 0;
  let setup = 0;
  const begin = seconds();
  for (const taskId of panelTasks("train").slice(0, 1000)) {
    const start = seconds();
    const episode = householdEpisode(taskId);
    setup += seconds() - start;
    for (let ended = false; !ended; steps++) {
      const commands = episode.admissible();
      const action = asked ? episode.expertAction() : random.pick(commands);
      const { terminated, truncated } = episode.step(action);
      ended = terminated || truncated;
    }
  }
  const all = seconds() - begin;
  return { steps, all, setup };
}

const games = [];
if (values.games !== undefined) {
  const provider = await alfworldProvider({ root: values.games });
  const { tasks } = await provider.panel(provider.panelNames[0]);
  const loads = [];
  for (const task of tasks) {
    const start = performance.now();
    const world = new TextWorld((await loadGame(`${values.games}/${task}/game.tw-pddl`)).world);
    world.reset();
    loads.push(performance.now() - start);
    games.push(world);
  }
  const first = loads[0];
  loads.sort((a, b) => a - b);
  const [median, slowest] = [loads[loads.length >> 1], loads.at(-1)];
  const figures = `median ${median.toFixed(1)} ms, slowest ${slowest.toFixed(1)} ms, the first ${first.toFixed(1)} ms`;
  show(`alfworld, ${games.length} games, load`, figures);
}

household(false);
const plain = household(false);
show("household", rate(plain.steps, plain.all - plain.setup));
show("household, with setup", rate(plain.steps, plain.all));
const expert = household(true);
show("household, expert, with setup", rate(expert.steps, expert.all));

if (games.length > 0) {
  let steps = 0;
  const start = seconds();
  for (const world of games) for (let i = 0; i < 500; i++, steps++) world.step(random.pick(world.admissible()));
  show(`alfworld, ${games.length} games`, rate(steps, seconds() - start));
}
