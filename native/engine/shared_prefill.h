// One prefill of a history for several sequences: each block goes through the model once, and all of their
// prompts behind it rate its rows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/sequence.h"

namespace longhaul {

// The rows that any of the prompts selects stay in one working cache, a union of up to `budgets` rows a KV
// head, in which the next block is read. Behind the last block each sequence gets the rows that its own prompt
// selects. In a prefill of its own a sequence would read each block behind its own selection only.
class SharedPrefill {
 public:
  // `sequences` are empty, and their policies differ in their prompt only, by which they score. `budgets`
  // [layers] are at least the policies'. Reserves the working cache: kOutOfMemory explains the arithmetic.
  static Result<std::unique_ptr<SharedPrefill>> create(std::vector<Sequence*> sequences,
                                                       std::span<const int32_t> tokens,
                                                       std::vector<int32_t> budgets);

  // The next block of `tokens`, which are the same in every call; with the last one the sequences get their
  // rows. A failure then breaks them.
  Status step(std::span<const int32_t> tokens);
  int64_t done() const { return done_; }

  // Of the working cache.
  int64_t reserved_bytes() const { return cache_->reserved_pages() * cache_->page_bytes(); }
  int64_t peak_bytes() const { return cache_->peak_pages() * cache_->page_bytes(); }
  const SequenceCache& cache() const { return *cache_; }
  SequenceCache& cache() { return *cache_; }

 private:
  SharedPrefill(std::vector<Sequence*> sequences, std::vector<int32_t> budgets)
      : sequences_(std::move(sequences)), budgets_(std::move(budgets)) {}

  Status pass(std::span<const int32_t> block, bool last);

  std::vector<Sequence*> sequences_;
  std::vector<int32_t> budgets_;
  std::unique_ptr<SequenceCache> cache_;
  int64_t done_ = 0;
};

}  // namespace longhaul
