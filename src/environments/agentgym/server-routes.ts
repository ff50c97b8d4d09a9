/** Calls of the three kinds of server, as functions of what was asked. */
import type { IncomingMessage } from "node:http";
import type { Field } from "../pydantic/fields.js";
import { type BodyRules, notFound, onlyMethod, readBodyFields, readQueryFields } from "../pydantic/http.js";
import type { Inspection } from "../scienceworld/simulator.js";
import type { AgentGymKind } from "./dialects.js";
import { type Room, type Rooms, Told } from "./rooms.js";

type Answer = (request: IncomingMessage, query: URLSearchParams) => Promise<unknown>;
type Table = Readonly<Record<string, readonly ["GET" | "POST", Answer]>>;

const BODY: BodyRules = { strictContentType: false, extra: "drop", missing: null };
const integer = (name: string): Field => ({ name, kind: "integer" });
const text = (name: string): Field => ({ name, kind: "string" });

/** Answers requests of a kind of server. Throws Refused; faults of environments become `{"error": text}`. */
export function routesOf(
  kind: AgentGymKind,
  rooms: Rooms,
): (request: IncomingMessage, path: string, query: URLSearchParams) => Promise<unknown> {
  const table = { sciworld, alfworld, webshop }[kind](rooms);
  return async (request, path, query) => {
    const route = Object.hasOwn(table, path) ? table[path] : undefined;
    if (route === undefined) throw notFound();
    onlyMethod(request, route[0]);
    try {
      return await route[1](request, query);
    } catch (error) {
      if (error instanceof Told) return { error: error.message };
      throw error;
    }
  };
}

/** A call with a body that names a room. */
function post<T>(
  fields: readonly Field[],
  find: (id: number) => Room,
  idField: string,
  rooms: Rooms,
  run: (room: Room, body: Readonly<Record<string, unknown>>) => Promise<T>,
): readonly ["POST", Answer] {
  return [
    "POST",
    async (request) => {
      const body = await readBodyFields(request, [integer(idField), ...fields], BODY);
      const id = Number(body[idField]);
      // Looked up again when its turn comes: a call before may have ended the episode.
      return rooms.queued(find(id), () => run(find(id), body));
    },
  ];
}

/** A call with a query that names a room. */
function get<T>(
  find: (id: number) => Room,
  idField: string,
  rooms: Rooms,
  run: (room: Room) => Promise<T>,
): readonly ["GET", Answer] {
  return [
    "GET",
    async (_, query) => {
      const id = Number(readQueryFields(query, [integer(idField)])[idField]);
      return rooms.queued(find(id), () => run(find(id)));
    },
  ];
}

function sciworld(rooms: Rooms): Table {
  const found = (id: number): Room => rooms.find(id);
  const running = (id: number): Room => rooms.running(id);
  const points = (score: number): number => Math.round(100 * score);
  /** Task, variation and goal, as the reset told them. */
  const told = (room: Room): object => ({
    task_name: room.start?.category,
    var_num: Number(room.taskId.split("/")[1] ?? 0),
    task_description: room.start?.task,
    observation: room.observation,
    reward: room.reward,
    score: points(room.score),
  });
  const detail = (room: Room): object => ({
    deleted: false,
    done: room.done,
    ...(room.start === null ? {} : told(room)),
  });
  const begun = (room: Room, fault: string): void => {
    if (room.start === null) throw new Told(fault);
  };
  const inspected = async (room: Room): Promise<Inspection> => {
    begun(room, NOT_INITIALIZED);
    const answer = await rooms.inspect(room);
    if (answer === null) throw new Told("Only the simulator's own environment tells its goals and objects.");
    return answer;
  };
  return {
    "/": ["GET", async () => "This is environment ScienceWorld."],
    "/create": ["POST", async () => ({ id: (await rooms.make()).id })],
    "/reset": post([integer("data_idx")], found, "id", rooms, async (room, body) => {
      await rooms.reset(room, Number(body.data_idx));
      room.observation = room.observation.trimEnd();
      return { ...told(room), deleted: false, done: false };
    }),
    "/step": post([text("action")], running, "id", rooms, async (room, body) => {
      begun(room, "'ScienceWorldEnv' object has no attribute 'variationIdx'");
      const before = points(room.score);
      const outcome = await rooms.step(room, String(body.action));
      room.reward = points(outcome.score) - before;
      return { observation: room.observation, reward: room.reward, score: points(room.score), done: room.done };
    }),
    "/close": [
      "POST",
      async (request) => {
        const { id } = await readBodyFields(request, [integer("id")], BODY);
        // The original falls over a number it does not know.
        if (!(await rooms.end(Number(id)))) throw new Error(`no environment ${String(id)}`);
        return true;
      },
    ],
    "/observation": get(running, "id", rooms, async (room) => {
      begun(room, "'observation'");
      return room.observation;
    }),
    "/task_description": get(running, "id", rooms, async (room) => ({
      task_description: room.start?.task ?? NOT_INITIALIZED,
    })),
    "/detail": get(running, "id", rooms, async (room) => detail(room)),
    "/action_hint": get(running, "id", rooms, async (room) => {
      if (room.start === null) return { possible_actions: [NOT_INITIALIZED], possible_objects: [NOT_INITIALIZED] };
      const inspection = await rooms.inspect(room);
      if (inspection !== null) return { possible_actions: inspection.templates, possible_objects: inspection.objects };
      // Whole actions where there are no templates.
      return { possible_actions: (await rooms.admissible(room)).actions, possible_objects: [] };
    }),
    "/goals": get(running, "id", rooms, async (room) => ({ goals: (await inspected(room)).goals })),
    "/state": get(running, "id", rooms, async (room) => {
      const { look, inventory, goals, templates, objects, moves } = await inspected(room);
      return {
        observation: look,
        inventory,
        task_description: room.start?.task,
        goal_progress: goals,
        possible_actions: templates.slice(0, SHOWN),
        possible_objects: objects.slice(0, SHOWN),
        current_moves: moves,
        environment_info: detail(room),
      };
    }),
    // The simulator's whole world, and pictures of it: not passed on.
    "/object_tree": get(running, "id", rooms, async (room) => {
      throw new Told(room.start === null ? NOT_INITIALIZED : "This server does not tell the object tree.");
    }),
  };
}

/** Actions and objects that `/state` shows. */
const SHOWN = 10;

const NOT_INITIALIZED = "ERROR: Interface is not initialized -- call reset() before beginning.";

function alfworld(rooms: Rooms): Table {
  const found = (id: number): Room => rooms.find(id);
  const listed = async (room: Room): Promise<readonly string[]> =>
    room.done ? [] : (await rooms.admissible(room)).actions;
  return {
    "/": ["GET", async () => "This is environment ALFWorld."],
    "/create": ["POST", async () => ({ id: (await rooms.make()).id })],
    "/reset": post(
      [integer("game"), { name: "world_type", kind: "string", fallback: "Text" }],
      found,
      "id",
      rooms,
      async (room, body) => {
        if (body.world_type !== "Text") throw new Told(`world_type ${String(body.world_type)} is not available`);
        const start = await rooms.reset(room, Number(body.game));
        room.observation = `${start.observation}\n\nYour task is to: ${start.task}.`;
        return {
          id: room.id,
          observation: room.observation,
          available_actions: await listed(room),
          task_type: room.taskId,
        };
      },
    ),
    "/step": post([text("action")], found, "id", rooms, async (room, body) => {
      const outcome = await rooms.step(room, String(body.action));
      return {
        observation: room.observation,
        reward: outcome.reward,
        available_actions: await listed(room),
        done: room.done,
      };
    }),
    "/available_actions": get(found, "id", rooms, listed),
    "/observation": get(found, "id", rooms, async (room) => room.observation),
    "/detail": get(found, "id", rooms, async (room) => ({
      id: room.id,
      observation: room.observation,
      task_type: room.taskId,
      reward: room.reward,
      done: room.done,
    })),
  };
}

function webshop(rooms: Rooms): Table {
  const found = (id: number): Room => rooms.find(id);
  let inTurn = 0;
  const show = (room: Room): object => ({ state: room.observation, reward: room.reward, done: room.done, info: null });
  return {
    "/": ["GET", async () => "This is environment WebShop."],
    "/create": ["POST", async () => (await rooms.make()).id],
    "/list_envs": ["GET", async () => rooms.ids],
    "/reset": post(
      [{ name: "session_id", kind: "integer", nullable: true, fallback: null }],
      found,
      "env_idx",
      rooms,
      async (room, body) => {
        await rooms.reset(room, body.session_id === null ? inTurn++ : Number(body.session_id));
        return [room.observation, null];
      },
    ),
    "/step": post([text("action")], found, "env_idx", rooms, async (room, body) => {
      await rooms.step(room, String(body.action));
      return show(room);
    }),
    "/available_actions": get(found, "env_idx", rooms, async (room) => {
      if (room.done) return { has_search_bar: false, clickables: [] };
      const { actions, patterns } = await rooms.admissible(room);
      const clickables = actions.flatMap((action) => /^click\[(.+)\]$/s.exec(action)?.[1] ?? []);
      const search = patterns.some((pattern) => pattern.includes("search"));
      return { has_search_bar: search, clickables: search ? ["search", ...clickables] : clickables };
    }),
    "/observation": get(found, "env_idx", rooms, async (room) => room.observation),
    "/state": get(found, "env_idx", rooms, async (room) => show(room)),
    "/instruction_text": get(found, "env_idx", rooms, async (room) => room.start?.task ?? ""),
  };
}
