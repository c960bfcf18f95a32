// Porter's stemmer as LoCoMo's scorer uses it: M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980), in
// the variant of NLTK's PorterStemmer that is its default. Where that differs from the paper a comment says "NLTK".

/** NLTK: words that the rules get wrong. */
const IRREGULAR = new Map(
  Object.entries({
    sky: ["sky", "skies"],
    die: ["dying"],
    lie: ["lying"],
    tie: ["tying"],
    news: ["news"],
    inning: ["inning", "innings"],
    outing: ["outing", "outings"],
    canning: ["canning", "cannings"],
    howe: ["howe"],
    proceed: ["proceed"],
    exceed: ["exceed"],
    succeed: ["succeed"],
  }).flatMap(([stem, words]) => words.map((word) => [word, stem])),
);

/** The word's letters as "c" (consonant) and "v" (vowel); y is a vowel behind a consonant. */
function shapeOf(word) {
  let shape = "";
  for (const letter of word) {
    const vowel = "aeiou".includes(letter) || (letter === "y" && shape.endsWith("c"));
    shape += vowel ? "v" : "c";
  }
  return shape;
}

/** The paper's m: how often a consonant follows a vowel. */
const measure = (stem) => shapeOf(stem).match(/vc/g)?.length ?? 0;
const hasVowel = (stem) => shapeOf(stem).includes("v");
const endsInDoubleConsonant = (word) => /(.)\1$/.test(word) && shapeOf(word).endsWith("c");

/** The paper's *o. NLTK: or a word of two letters, a vowel and a consonant. */
function endsShort(stem) {
  const shape = shapeOf(stem);
  return shape === "vc" || (shape.endsWith("cvc") && !/[wxy]$/.test(stem));
}

/** Only the first rule whose suffix the word has is tried. */
function replaceSuffix(word, rules) {
  const rule = rules.find(([suffix]) => word.endsWith(suffix));
  if (rule === undefined) return word;
  const [suffix, replacement, holds] = rule;
  const stem = word.slice(0, word.length - suffix.length);
  return holds(stem) ? stem + replacement : word;
}

const always = () => true;
const some = (stem) => measure(stem) > 0;
const several = (stem) => measure(stem) > 1;

function plurals(word) {
  // NLTK: "dies" keeps its e.
  if (word.endsWith("ies") && word.length === 4) return word.slice(0, -1);
  return replaceSuffix(word, [
    ["sses", "ss", always],
    ["ies", "i", always],
    ["ss", "ss", always],
    ["s", "", always],
  ]);
}

function pastAndProgressive(word) {
  // NLTK: "died" keeps its e, "spied" loses it.
  if (word.endsWith("ied")) return word.slice(0, word.length === 4 ? -1 : -2);
  if (word.endsWith("eed")) return some(word.slice(0, -3)) ? word.slice(0, -1) : word;
  const suffix = ["ed", "ing"].find(
    (ending) => word.endsWith(ending) && hasVowel(word.slice(0, -ending.length)),
  );
  if (suffix === undefined) return word;
  const stem = word.slice(0, -suffix.length);
  if (/(at|bl|iz)$/.test(stem)) return `${stem}e`;
  if (endsInDoubleConsonant(stem)) return /[lsz]$/.test(stem) ? stem : stem.slice(0, -1);
  return measure(stem) === 1 && endsShort(stem) ? `${stem}e` : stem;
}

function finalY(word) {
  const stem = word.slice(0, -1);
  // NLTK: behind a consonant, not wherever the stem has a vowel.
  return word.endsWith("y") && stem.length > 1 && shapeOf(stem).endsWith("c") ? `${stem}i` : word;
}

const DOUBLE_SUFFIXES = [
  ["ational", "ate"],
  ["tional", "tion"],
  ["enci", "ence"],
  ["anci", "ance"],
  ["izer", "ize"],
  // NLTK: the paper has abli, able.
  ["bli", "ble"],
  ["alli", "al"],
  ["entli", "ent"],
  ["eli", "e"],
  ["ousli", "ous"],
  ["ization", "ize"],
  ["ation", "ate"],
  ["ator", "ate"],
  ["alism", "al"],
  ["iveness", "ive"],
  ["fulness", "ful"],
  ["ousness", "ous"],
  ["aliti", "al"],
  ["iviti", "ive"],
  ["biliti", "ble"],
  // NLTK
  ["fulli", "ful"],
].map((rule) => [...rule, some]);

function doubleSuffixes(word) {
  // NLTK: what "alli" leaves goes through this step again, and "logi" counts its l to the stem.
  if (word.endsWith("alli") && some(word.slice(0, -4))) return doubleSuffixes(word.slice(0, -2));
  return replaceSuffix(word, [...DOUBLE_SUFFIXES, ["logi", "log", (stem) => some(`${stem}l`)]]);
}

const SUFFIXES = [
  ["icate", "ic"],
  ["ative", ""],
  ["alize", "al"],
  ["iciti", "ic"],
  ["ical", "ic"],
  ["ful", ""],
  ["ness", ""],
].map((rule) => [...rule, some]);

const LONG_STEM_SUFFIXES = [
  ...["al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"].map((suffix) => [
    suffix,
    "",
    several,
  ]),
  ["ion", "", (stem) => several(stem) && /[st]$/.test(stem)],
  ...["ou", "ism", "ate", "iti", "ous", "ive", "ize"].map((suffix) => [suffix, "", several]),
];

function finalE(word) {
  if (!word.endsWith("e")) return word;
  const stem = word.slice(0, -1);
  return several(stem) || (some(stem) && !endsShort(stem)) ? stem : word;
}

const finalDoubleL = (word) => (word.endsWith("ll") && several(word.slice(0, -1)) ? word.slice(0, -1) : word);

/** The stem of a word in lower case. */
export function stem(word) {
  const irregular = IRREGULAR.get(word);
  if (irregular !== undefined) return irregular;
  // NLTK, as Porter's own program.
  if (word.length <= 2) return word;
  const inflected = finalY(pastAndProgressive(plurals(word)));
  const derived = replaceSuffix(replaceSuffix(doubleSuffixes(inflected), SUFFIXES), LONG_STEM_SUFFIXES);
  return finalDoubleL(finalE(derived));
}
