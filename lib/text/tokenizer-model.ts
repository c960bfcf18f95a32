import * as declared from "@huggingface/tokenizers";
import type { TokenizerFile } from "./tokenizer-file.js";
import type { Merges, Vocabulary } from "./vocabulary.js";

/** A model of the library, as far as it is used here. */
export interface LibraryModel {
  tokens_to_ids: Pick<Map<string, number>, "get" | "has">;
  readonly unk_token?: string | null;
  unk_token_id?: number;
}

interface LibraryBpe extends LibraryModel {
  bpe_ranks: { get(pair: string): number | undefined };
  add_node(queue: { push(node: Node): void }, node: Node): void;
}

/** What the library's BPE keeps of a word while it merges: a list linked both ways. */
interface Node {
  readonly token: string;
  readonly next: Node;
  readonly bias: number;
  score?: number;
}

/** A tokenizer of the library, as far as it is used here. */
export interface LibraryTokenizer {
  model: LibraryModel;
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
}

type Json = Readonly<Record<string, unknown>>;

// The library's own declarations name their parts in a way that NodeNext does not resolve.
const library = declared as unknown as {
  readonly BPE: new (config: Json) => LibraryBpe;
  readonly WordPiece: new (config: Json) => LibraryModel;
  readonly Unigram: new (config: Json) => LibraryModel;
  readonly Tokenizer: new (tokenizer: Json, config: Json) => LibraryTokenizer;
};

/**
 * The library's model over our tables. Its own dictionaries of strings would take some hundred bytes a token and as
 * many a merge: more than a twentieth of a small model's weights. Unigram models keep theirs, since they search a tree
 * of characters.
 */
export function createModel({ json: { model }, vocabulary, merges }: TokenizerFile): LibraryModel {
  switch (model.type) {
    case "BPE": {
      const bpe = new library.BPE({ ...model, vocab: {}, merges: [] });
      shareMerges(bpe, vocabulary, merges);
      return shareVocabulary(bpe, vocabulary);
    }
    case "WordPiece":
      return shareVocabulary(new library.WordPiece({ ...model, vocab: {} }), vocabulary);
    default:
      return new library.Unigram(model);
  }
}

function shareVocabulary(model: LibraryModel, vocabulary: Vocabulary): LibraryModel {
  model.tokens_to_ids = vocabulary;
  const unknown = typeof model.unk_token === "string" ? vocabulary.get(model.unk_token) : undefined;
  if (unknown !== undefined) model.unk_token_id = unknown;
  return model;
}

function shareMerges(bpe: LibraryBpe, vocabulary: Vocabulary, merges: Merges): void {
  bpe.add_node = (queue, node) => {
    const left = vocabulary.get(node.token);
    const right = vocabulary.get(node.next.token);
    if (left === undefined || right === undefined) return;
    const rank = merges.rank(left, right);
    if (rank === undefined) return;
    node.score = rank + node.bias;
    queue.push(node);
  };
  // Should another version of the library ask elsewhere, it must not find a model without merges there.
  bpe.bpe_ranks.get = () => {
    throw new Error("this version of @huggingface/tokenizers looks merges up in another way");
  };
}

/** A tokenizer of the library, with `model` in place of the one it would make from `config`. */
export function createLibraryTokenizer(config: Json, model: LibraryModel): LibraryTokenizer {
  const tokenizer = new library.Tokenizer({ ...config, model: { type: "BPE", vocab: {}, merges: [] } }, {});
  tokenizer.model = model;
  return tokenizer;
}
