/** The hand-coded expert's intentions in a few plain words, for demonstrations that reason before they act. */
import type { Intention } from "./expert.js";

/**
 * One or two short sentences, e.g. `mug? try cabinet 2.` They say what the intention rests on and nothing that the agent
 * could not have read.
 */
export function thoughtOf({ phase, action, target, receptacle, treatment }: Intention): string {
  if (action.startsWith("open ")) return `${receptacle} is closed. open it.`;
  const going = action.startsWith("go to ");
  switch (phase) {
    case "search":
      return `${target}? try ${receptacle}.`;
    case "take":
      return going ? `${target} is at ${receptacle}. go.` : `${target} is here. take it.`;
    case "treat":
      return going ? `${treatment} ${target} at ${receptacle}. go.` : `${treatment} it with ${receptacle}.`;
    case "place":
      return going ? `${target} belongs to ${receptacle}. go.` : `${receptacle} is the place for ${target}.`;
    case "use":
      return going ? `${target} is at ${receptacle}. go.` : `${target} is here. use it.`;
    case "drop":
      return going ? `${target} can go to ${receptacle}. go.` : `put ${target} away.`;
  }
}
