// A byte-level tokenizer for models that were never trained: a byte of text is a token, so that a text of n ASCII
// characters is exactly n tokens.

/** The first ids are the bytes; then the beginning and the end of a text. */
export const BOS = 256;
export const EOS = 257;

/** GPT-2's printable stand-ins of bytes. */
function byteCharacters() {
  const isPrintable = (byte) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

/** How many longer tokens each token of the tree below begins: lengths come out as in trained vocabularies. */
const BRANCHES = 4;

/**
 * tokenizer.json for a vocabulary of `size`, with a merge for each token: their memory is that of a trained one. All
 * tokens but the first consist of bytes that no ASCII text has.
 */
export function tokenizerJson(size) {
  const characters = byteCharacters();
  const vocab = {};
  for (const [id, character] of characters.entries()) vocab[character] = id;
  const tree = characters.slice(128);
  const merges = [];
  for (let id = 258; id < size; ++id) {
    const pair = [tree[Math.floor(merges.length / BRANCHES)], characters[128 + (merges.length % BRANCHES)]];
    merges.push(pair);
    tree.push(pair.join(""));
    vocab[tree.at(-1)] = id;
  }
  const special = (id, content) => ({
    id,
    content,
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(BOS, "<s>"), special(EOS, "</s>")],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges,
    },
  };
}

export const TOKENIZER_CONFIG = {
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: "<s>",
  eos_token: "</s>",
  clean_up_tokenization_spaces: false,
  // Text goes in as it is: what a template adds would count as tokens of the history.
  chat_template: "{% for message in messages %}{{ message['content'] }}{% endfor %}",
};
