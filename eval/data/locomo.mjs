// LoCoMo (Maharana et al., arXiv 2402.17753): an array of samples, or one of them, each a `conversation` of sessions
// and its questions `qa`.
import { parseTranscript } from "longhaul";
import { seededRandom } from "../../examples/demo/dialogue.mjs";
import { isFields, Record } from "./fields.mjs";

const CATEGORIES = ["multi-hop", "temporal", "open-domain", "single-hop", "adversarial"];
const NOT_MENTIONED = "Not mentioned in the conversation";

export const recognises = (record) => isFields(record) && isFields(record.conversation);

/** What is asked: dates may be approximate, and an adversarial question offers a wrong answer beside "not mentioned". */
function asked(qa, kind, random) {
  const question = qa.text("question");
  if (kind === 2) return { question, hint: "An approximate date will do." };
  if (kind !== 5) return { question };
  const wrong = qa.textOrNumber(qa.has("adversarial_answer") ? "adversarial_answer" : "answer");
  const [a, b] = random.shuffled([NOT_MENTIONED, wrong]);
  return { question, hint: `Choose between (a) ${a} and (b) ${b}.`, options: { a, b } };
}

function questionsOf(sample, random) {
  const questions = [];
  let leftOut = 0;
  for (const qa of sample.has("qa") ? sample.records("qa") : []) {
    const kind = qa.oneOf("category", [1, 2, 3, 4, 5]);
    if (kind !== 5 && !qa.has("answer")) {
      leftOut += 1;
      continue;
    }
    const answer = kind === 5 ? NOT_MENTIONED : qa.textOrNumber("answer");
    questions.push({ ...asked(qa, kind, random), answer, kind, category: CATEGORIES[kind - 1] });
  }
  return { questions, leftOut };
}

/** @returns {{ dialogues: object[], leftOut: number }} `leftOut`: questions that come without an answer */
export function read(file, content, value, seed) {
  const samples = Array.isArray(value) ? value : [value];
  const random = seededRandom(seed);
  let leftOut = 0;
  const dialogues = samples.map((sample, index) => {
    const transcript = parseTranscript(content, file, { sample: index });
    const found = questionsOf(new Record(file, Array.isArray(value) ? `[${index}]` : "", sample), random);
    leftOut += found.leftOut;
    return {
      id: transcript.id,
      text: transcript.text,
      utterances: transcript.utterances.map(({ speaker, text }) => `${speaker} said, "${text}"`),
      questions: found.questions,
    };
  });
  return { dialogues, leftOut };
}
