import { beforeAll, describe, expect, it } from "vitest";
import { importEval } from "./support.js";

let stem: (word: string) => string;
beforeAll(async () => {
  ({ stem } = await importEval<{ stem: typeof stem }>("score/porter"));
});

const pairs = (text: string) =>
  text
    .trim()
    .split(/\s+/)
    .map((pair) => pair.split(":") as [string, string]);

/** The examples of Porter's paper, taken through all steps by hand. */
const PAPER = `
  caresses:caress ponies:poni caress:caress cats:cat feed:feed agreed:agre plastered:plaster bled:bled motoring:motor
  sing:sing conflated:conflat troubled:troubl sized:size hopping:hop tanned:tan falling:fall hissing:hiss fizzed:fizz
  failing:fail filing:file happy:happi relational:relat conditional:condit rational:ration digitizer:digit
  vietnamization:vietnam predication:predic operator:oper feudalism:feudal decisiveness:decis hopefulness:hope
  callousness:callous formality:formal sensitivity:sensit sensibility:sensibl triplicate:triplic formative:form
  formalize:formal electricity:electr electrical:electr hopeful:hope goodness:good revival:reviv allowance:allow
  inference:infer airliner:airlin gyroscopic:gyroscop adjustable:adjust defensible:defens irritant:irrit
  replacement:replac adjustment:adjust dependent:depend adoption:adopt communism:commun activate:activ
  angularity:angular homologous:homolog effective:effect bowdlerize:bowdler probate:probat rate:rate cease:ceas
  controller:control roll:roll generalizations:gener oscillators:oscil`;

/** What NLTK's documentation shows for its PorterStemmer. */
const NLTK = `
  flies:fli dies:die mules:mule denied:deni died:die owned:own humbled:humbl meeting:meet stating:state siezing:siez
  itemization:item sensational:sensat traditional:tradit reference:refer colonizer:colon plotted:plot`;

/** Where NLTK's stemmer leaves the paper: irregular words, words of two letters, "logi", "fulli", final y. */
const DEPARTURES = `
  skies:sky dying:die lying:lie news:news innings:inning proceed:proceed is:is as:as enjoy:enjoy try:tri spied:spi
  geology:geolog carefully:care ties:tie`;

describe("the stemmer", () => {
  it.each(pairs(PAPER))("takes %s to %s, as Porter's paper", (word, expected) => {
    expect(stem(word)).toBe(expected);
  });

  it.each(pairs(NLTK))("takes %s to %s, as NLTK", (word, expected) => {
    expect(stem(word)).toBe(expected);
  });

  it.each(pairs(DEPARTURES))("takes %s to %s, where NLTK is no longer the paper", (word, expected) => {
    expect(stem(word)).toBe(expected);
  });

  it("leaves what is no English word", () => {
    for (const word of ["", "7", "2023", "x", "é", "日本語"]) expect(stem(word)).toBe(word);
  });
});
