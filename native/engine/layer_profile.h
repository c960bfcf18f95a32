// How much the keys of each layer depend on distant tokens: EpiCache's sensitivity profile (arXiv 2509.17396,
// section 3.2 and equation 9), from which a budget is divided among layers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/sequence.h"

namespace longhaul {

// What a token sees in the windowed run; defaults are EpiCache's.
struct ProfileOptions {
  int32_t sinks = 128;    // the first tokens of the text
  int32_t window = 2048;  // the last tokens of the block before its own; at most `block`
  int32_t block = 4096;   // and its own block, causally
};

// One text, run twice: under full causal attention and under the window. The windowed run is block-wise prefill
// that keeps `sinks` first and `window` last rows of every head, since what it evicts is what later blocks may
// not see. So two sequences run side by side, block by block, and their newest keys are compared in each layer
// before the windowed ones are evicted.
class LayerProfile {
 public:
  // Reserves the pages of both runs: kOutOfMemory when they are not free. kInvalidArgument names the option, or
  // says that the model has not enough positions.
  static Result<std::unique_ptr<LayerProfile>> create(Transformer& model, PagePool& pool,
                                                      std::vector<int32_t> tokens,
                                                      const ProfileOptions& options);

  // The next block of both runs.
  Status step();
  int64_t done() const { return done_; }  // tokens
  int64_t total() const { return static_cast<int64_t>(tokens_.size()); }

  // [layers] the cosine of a token's key (as it is cached, after RoPE) in one run with that in the other, mean
  // over KV heads and the tokens done so far. 1 in layer 0 but for rounding, as no attention has touched its
  // keys yet. kCorruptFile names a layer whose keys are no numbers.
  Result<std::vector<double>> similarity() const;

 private:
  class KeyComparison;

  LayerProfile(Transformer& model, std::vector<int32_t> tokens) : model_(model), tokens_(std::move(tokens)) {}

  Transformer& model_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<Sequence> full_, windowed_;
  int64_t done_ = 0;
  std::vector<double> cosines_;  // [layers] summed over tokens and KV heads
};

}  // namespace longhaul
