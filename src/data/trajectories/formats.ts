/**
 * Shapes of files. `auto` tells them apart record by record; naming one makes any other an error.
 *
 * `conversations` are AgentTraj-L, ETO, AgentInstruct, ShareGPT-like and role/content sets.
 */
export const trajectoryFormats = [
  "auto",
  "trajectory",
  "conversations",
  "react-prompts",
  "react-webshop",
  "scienceworld-gold",
] as const;
export type TrajectoryFormat = (typeof trajectoryFormats)[number];
