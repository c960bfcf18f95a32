import type { DialogueState } from "../dialogue.js";
import { requireInteger, requireNumber, requireOneOf, requireString } from "../errors.js";
import { POSITIONS } from "../memory.js";
import type { LoggedMessage } from "../message-log.js";
import type { NativePacking, NativePolicy } from "../native.js";
import type { Message } from "../text/chat-template.js";
import {
  requireFlag,
  requireInt32,
  requireIntegers,
  requireList,
  requireObject,
  requireText,
} from "./values.js";

/** What the engine makes of the numbers is its own business: it refuses those that no policy has. */
export function readPolicy(name: string, value: unknown): NativePolicy {
  const policy = requireObject(name, value);
  const number = (key: string, min = 1) => requireInt32(`${name}.${key}`, policy[key], min);
  return {
    policy: requireString(`${name}.policy`, policy.policy),
    level: requireOneOf(`${name}.level`, policy.level, ["pair", "head"]),
    budgets: Int32Array.from(requireIntegers(`${name}.budgets`, policy.budgets, 1)),
    block: number("block"),
    tail: number("tail"),
    sinks: number("sinks", 0),
    window: number("window"),
    kernel: number("kernel"),
    prompt: Int32Array.from(requireIntegers(`${name}.prompt`, policy.prompt)),
    promptRows: number("promptRows", 0),
    own: Int32Array.from(requireIntegers(`${name}.own`, policy.own)),
    promptAtLastPosition: requireFlag(`${name}.promptAtLastPosition`, policy.promptAtLastPosition),
    positions: requireOneOf(`${name}.positions`, policy.positions, POSITIONS),
  };
}

export function readPacking(name: string, value: unknown): NativePacking {
  const { times, rotations, settled } = requireObject(name, value);
  return {
    times: requireInteger(`${name}.times`, times, 0),
    rotations: requireInteger(`${name}.rotations`, rotations, 0),
    settled: requireInt32(`${name}.settled`, settled),
  };
}

export function readDialogue(name: string, value: unknown): DialogueState {
  const dialogue = requireObject(name, value);
  const messages = (key: string) => requireList(`${name}.${key}`, dialogue[key], readMessage);
  const { generated } = dialogue;
  return {
    // What a Date can hold.
    now: requireNumber(`${name}.now`, dialogue.now, -8.64e15, 8.64e15),
    history: messages("history"),
    tryAt: requireInt32(`${name}.tryAt`, dialogue.tryAt),
    log: requireList(`${name}.log`, dialogue.log, readLogged),
    generated: generated === null ? null : requireText(`${name}.generated`, generated),
    unwritten: messages("unwritten"),
    rest: requireText(`${name}.rest`, dialogue.rest),
    begun: requireFlag(`${name}.begun`, dialogue.begun),
    recent: requireIntegers(`${name}.recent`, dialogue.recent),
  };
}

function readLogged(name: string, value: unknown): LoggedMessage {
  const entry = requireObject(name, value);
  return {
    message: readMessage(`${name}.message`, entry.message),
    tokens: requireInt32(`${name}.tokens`, entry.tokens, 1),
  };
}

/** Templates may look at more than role and content: what else a message has stays with it. */
function readMessage(name: string, value: unknown): Message {
  const message = requireObject(name, value);
  requireString(`${name}.role`, message.role);
  requireText(`${name}.content`, message.content);
  return message as object as Message;
}
