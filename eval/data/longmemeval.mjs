// LongMemEval (Wu et al., arXiv 2410.10813): an array of questions, each with a history of sessions of its own.
import { isFields, Record } from "./fields.mjs";

export const recognises = (record) => isFields(record) && "haystack_sessions" in record;

function sessionsOf(record, file, at) {
  const sessions = record.list("haystack_sessions");
  const dates = record.list("haystack_dates");
  if (sessions.length === 0) throw record.invalid("haystack_sessions", "has no session");
  if (dates.length !== sessions.length)
    throw record.invalid("haystack_dates", `has ${dates.length} dates for ${sessions.length} sessions`);
  const read = sessions.map((turns, index) => {
    const where = `${at}.haystack_sessions[${index}]`;
    const date = dates[index];
    if (typeof date !== "string") throw record.invalid(`haystack_dates[${index}]`, "must be text");
    if (!Array.isArray(turns)) throw record.invalid(`haystack_sessions[${index}]`, "must be an array");
    const said = turns.map((turn, position) => {
      const fields = new Record(file, `${where}[${position}]`, turn);
      const speaker = { user: "User", assistant: "Assistant" }[fields.oneOf("role", ["user", "assistant"])];
      return `${speaker}: ${fields.text("content", { allowEmpty: true })}`;
    });
    return { date, said };
  });
  // The file with the oracle's sessions has them in no order; dates such as 2023/05/20 (Sat) 02:21 sort as text.
  return read.sort((a, b) => (a.date < b.date ? -1 : a.date > b.date ? 1 : 0));
}

function dialogueOf(file, at, value) {
  const record = new Record(file, at, value);
  const id = record.text("question_id");
  const sessions = sessionsOf(record, file, at);
  const question = {
    question: record.text("question"),
    hint: `Today is ${record.text("question_date")}.`,
    answer: record.textOrNumber("answer"),
    category: record.text("question_type"),
  };
  const body = sessions.map(({ date, said }) => `\nDATE: ${date}\nCONVERSATION:\n${said.join("\n")}\n`);
  return {
    id,
    text: `Below are conversations between a user and an assistant, with the date of each.\n${body.join("")}`,
    utterances: sessions.flatMap(({ said }) => said),
    // Whether a question cannot be answered takes a judge: its "answer" explains why, which no F1 can compare.
    questions: id.endsWith("_abs") ? [] : [question],
  };
}

export function read(file, _content, value) {
  const records = Array.isArray(value) ? value : [value];
  const all = records.map((entry, index) => dialogueOf(file, `[${index}]`, entry));
  const dialogues = all.filter(({ questions }) => questions.length > 0);
  return { dialogues, leftOut: all.length - dialogues.length };
}
