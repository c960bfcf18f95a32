// One token stream and its cache: what a conversation is to the engine. All calls come from the engine's
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kv/policy.h"
#include "model/transformer.h"

namespace longhaul {

// What packing has done to a sequence.
struct Packing {
  int64_t times = 0;
  int64_t rotations = 0;  // the most that any key went through: times when all rows were packed
  int32_t settled = 0;    // rows at positions below were packed before
};

struct SequenceMemory {
  int64_t tokens_seen = 0;    // length of the stream, the pending token not counted
  int64_t next_position = 0;  // of the next token: tokens_seen until positions are packed for the first time
  Packing packing;
  int64_t tail_rows = 0;  // of them appended since the last eviction
  int64_t reserved_bytes = 0;
  int64_t used_bytes = 0;
  int64_t peak_bytes = 0;
  int64_t table_bytes = 0;
  std::vector<int32_t> rows;  // [layers, kv_heads] rows kept
};

// Everything that a sequence is, but the keys and values of its rows: what makes the same one again, here or in
// another process with the same model.
struct SequenceImage {
  KvGeometry geometry;
  MemoryPolicy policy;
  int64_t tokens_seen = 0;
  int64_t next_position = 0;
  Packing packing;
  int64_t tail_rows = 0;
  std::optional<int32_t> pending;
  std::vector<int32_t> recent;
  int64_t peak_pages = 0;
  CacheIndex rows;
};

// kCorruptFile for what no sequence of a model can be: geometry, ranges, order of positions, rows beyond the
// policy's budget. What passes can be gone on with as if it had never left.
Status check(const SequenceImage& image, const ModelConfig& model, const KvGeometry& geometry);

class Sequence {
 public:
  // Reserves a bounded policy's pages at once: kOutOfMemory explains the arithmetic. Policy `full` reserves as
  // it grows.
  static Result<std::unique_ptr<Sequence>> create(Transformer& model, PagePool& pool, MemoryPolicy policy);

  // The sequence of an image, which is checked before anything is reserved. It refuses all work until
  // write_rows has brought each head that has rows.
  static Result<std::unique_ptr<Sequence>> restore(Transformer& model, PagePool& pool,
                                                   const SequenceImage& image);
  // A sequence of its own that goes on as `first` would, with the rows that `second` kept of the first
  // `shared_tokens` tokens, which both have seen, beside its own; those of a position that first's head has are
  // left out. It may keep what both may. Neither of them changes. kUnsupported where positions were packed:
  // they mean other tokens then.
  static Result<std::unique_ptr<Sequence>> unite(Transformer& model, PagePool& pool, Sequence& first,
                                                 Sequence& second, int64_t shared_tokens);
  Result<SequenceImage> image();
  // Keys, then values of one head, in the pool's dtype. [2, rows, head_dim]
  Result<std::vector<uint8_t>> read_rows(int32_t layer, int32_t head);
  Status write_rows(int32_t layer, int32_t head, std::span<const uint8_t> rows);

  const MemoryPolicy& policy() const { return policy_; }
  int64_t tokens_seen() const { return tokens_seen_; }
  int32_t tail_rows() const { return tail_rows_; }

  // Tokens that the model's positions leave room for behind the pending one: no limit when positions are
  // packed.
  int64_t tokens_left() const;
  // Checks that `tokens` more tokens fit the model's positions, unless these are packed, and, for policy
  // `full`, reserves their pages, so that no pass fails half-way.
  Status admit(int64_t tokens);
  // Gives back what admit() reserved for tokens that did not come after all.
  Status give_back();

  // True when `rows` more rows fit the tail without an eviction.
  bool tail_holds(int64_t rows) const;

  // One pass over at most `block` tokens. prefill: evicts down to the budget inside the layer loop; the tail,
  // if any, is evicted with it. extend: no eviction, the rows join the tail.
  Status prefill(std::span<const int32_t> tokens, PassObserver* observer = nullptr);
  Status extend(std::span<const int32_t> tokens, PassObserver* observer = nullptr);
  // One pass that takes the same tokens into each of `sequences`, which are settled and of one model: each ends
  // as its own prefill would leave it, to the bit, while weights are read once. prepare_together() has made
  // sure of the scratch memory, which is that of all their rows. A failure breaks all of them.
  static Status prefill_together(std::span<Sequence* const> sequences, std::span<const int32_t> tokens);
  static Status prepare_together(std::span<Sequence* const> sequences);
  // One pass in which the tail of each takes a token of its own, which it must hold (tail_holds): a decode
  // pass, only queued, as extend() with one token.
  static Status extend_together(std::span<Sequence* const> sequences, std::span<const int32_t> tokens);
  // Waits for it.
  static Status settle_together(std::span<Sequence* const> sequences);
  // Evicts a full tail without new tokens.
  Status evict_tail(PassObserver* observer = nullptr);

  // Passes from now on run with `adapter` (null: the model alone); rows that are there stay as they are.
  // kOutOfMemory: there is no scratch memory for it, nothing changed.
  Status use(std::shared_ptr<const AdapterWeights> adapter);
  const AdapterWeights* adapter() const { return adapter_.get(); }

  // Forgets the newest `rows` rows; only the tail can be forgotten.
  Status truncate(int64_t rows);

  // Ok when there is no damage and nothing under way, which it waits for.
  Status settled();
  // Waits for the last pass. One over a single token is only queued: its failure, and what it did to the
  // memory, are known after this, which every other call does first.
  Status settle();

  // Row of the last token of the last pass, for Transformer::logits.
  int64_t last_row() const { return last_row_; }

  // A token that was drawn but not run yet: it goes first in the next pass.
  std::optional<int32_t> pending;

  Result<SequenceMemory> memory();
  SequenceCache& cache() { return *cache_; }

 private:
  friend class SharedPrefill;
  Sequence(Transformer& model, PagePool& pool, MemoryPolicy policy)
      : model_(model), pool_(pool), policy_(std::move(policy)) {}

  // Token ids that are fed behind a block, or behind a full tail when the block is empty, to score the rows.
  std::vector<int32_t> observers_behind(std::span<const int32_t> block) const;
  Status broken(const Status& status);
  Status check_head(int32_t layer, int32_t head) const;
  // Packs positions, where the policy allows it, when `rows` more would pass the model's.
  Status make_positions(int64_t rows);
  Status pass(std::span<const int32_t> tokens, std::span<const int32_t> observers, bool evict,
              PassObserver* observer);
  // The policy's spans, absent when there are none. [spans, 2] i32, device memory.
  Tensor own() const;
  // This sequence's part of a pass, positions made; valid until its next one.
  Result<Segment> stage(std::span<const int32_t> tokens, std::span<const int32_t> observers, bool evict);
  static Status forward(Transformer& model, PagePool& pool, std::span<const Segment> segments,
                        PassObserver* observer);
  // A pass over `tokens` is over, whose last row was `last_row`.
  void count(std::span<const int32_t> tokens, int64_t last_row);

  Transformer& model_;
  PagePool& pool_;
  MemoryPolicy policy_;
  std::unique_ptr<SequenceCache> cache_;
  std::shared_ptr<const AdapterWeights> adapter_;
  Buffer own_;  // the policy's spans in device memory
  int64_t tokens_seen_ = 0;
  int64_t next_position_ = 0;
  Packing packing_;
  int32_t tail_rows_ = 0;
  int64_t last_row_ = 0;
  std::vector<int32_t> recent_;                        // the newest tokens, as many as observe, to be fed again
  std::vector<int32_t> pass_tokens_, pass_positions_;  // kept between passes: a decode step allocates nothing
  Status damage_;                 // a pass broke off inside: layers disagree, nothing more can be done with it
  std::vector<int32_t> awaited_;  // [layers, kv_heads] rows that write_rows has yet to bring; empty when none
};

}  // namespace longhaul
