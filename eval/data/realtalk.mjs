// RealTalk (Lee et al., arXiv 2502.13270): a conversation a file, or an array of them, with sessions of messages beside
// the questions `qa`.
import { isFields, Record } from "./fields.mjs";

/** Its numbers are LoCoMo's, of which it has no others. */
const CATEGORIES = { 1: "multi-hop", 2: "temporal", 3: "commonsense" };

export const recognises = (record) => isFields(record) && isFields(record.name) && !("conversation" in record);

function utteranceOf(message) {
  const speaker = message.text("speaker");
  const said = message.text(message.has("clean_text") ? "clean_text" : "text", { allowEmpty: true });
  const shared = message.has("blip_caption")
    ? ` ${speaker} shared an image: ${message.text("blip_caption")}.`
    : "";
  return `${speaker} said, "${said}"${shared}`;
}

function dialogueOf(record, id) {
  const name = record.record("name");
  const speakers = [name.text("speaker_1"), name.text("speaker_2")];
  const numbers = record.names
    .map((field) => /^session_(\d+)$/.exec(field)?.[1])
    .filter((number) => number !== undefined)
    .sort((a, b) => a - b);
  const parts = [
    `Below is a conversation between ${speakers.join(" and ")}. It takes place over several days.\n`,
  ];
  const utterances = [];
  for (const number of numbers) {
    const said = record.records(`session_${number}`).map(utteranceOf);
    const date = record.text(`session_${number}_date_time`);
    utterances.push(...said);
    parts.push(`\nDATE: ${date}\nCONVERSATION:\n`, ...said.map((line) => `${line}\n`));
  }
  if (utterances.length === 0) throw record.invalid("", "has no session_1, session_2, ... with a message");
  const qas = record.has("qa") ? record.records("qa") : [];
  const answered = qas.filter((qa) => qa.has("answer"));
  const questions = answered.map((qa) => {
    const kind = qa.oneOf("category", [1, 2, 3]);
    return {
      question: qa.text("question"),
      answer: qa.textOrNumber("answer"),
      kind,
      category: CATEGORIES[kind],
    };
  });
  const dialogue = { id, text: parts.join(""), utterances, questions };
  return { dialogue, leftOut: qas.length - answered.length };
}

export function read(file, _content, value) {
  const name = file.replace(/^.*[/\\]/, "").replace(/\.json$/, "");
  const found = Array.isArray(value)
    ? value.map((entry, index) => dialogueOf(new Record(file, `[${index}]`, entry), `${name} ${index + 1}`))
    : [dialogueOf(new Record(file, "", value), name)];
  return {
    dialogues: found.map(({ dialogue }) => dialogue),
    leftOut: found.reduce((sum, { leftOut }) => sum + leftOut, 0),
  };
}
