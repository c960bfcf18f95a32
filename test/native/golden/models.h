// Models and the passes that several kinds of cases make.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "array.h"
#include "engine/sampler.h"
#include "engine/sequence.h"

namespace longhaul::golden {

struct LoadedModel {
  std::unique_ptr<Transformer> model;
  std::unique_ptr<PagePool> pool;
  std::unique_ptr<Sampler> sampler;

  // Whether values between ops are bf16, so that `limits_bf16` rules.
  bool computes_in_bf16() const;
};

// Each model is loaded once: many cases share few.
class Models {
 public:
  explicit Models(Backend& backend) : backend_(backend) {}

  Result<LoadedModel*> get(const std::string& directory);

 private:
  Backend& backend_;
  std::map<std::string, LoadedModel> loaded_;
};

// Feeds tokens in passes of at most the policy's block. `after_pass` gets the index of the pass's first token
// and how many it had.
using AfterPass = std::function<Status(int64_t begin, int64_t count)>;
Status extend(Sequence& sequence, std::span<const int32_t> tokens, PassObserver* observer,
              const AfterPass& after_pass);

// Logits of the given rows of the last pass, ascending. [rows, vocab]
Result<Array> read_logits(Transformer& model, std::span<const int64_t> rows);

// Draws the arg-max `steps` times behind the last pass and feeds each id back.
struct GreedyRun {
  std::vector<int32_t> ids;  // [steps]
  Array logits;              // [steps, vocab], the rows that gave them
};
Result<GreedyRun> run_greedy(LoadedModel& loaded, Sequence& sequence, int64_t steps);

// extend() and the logits of every token. [tokens, vocab]
Result<Array> extend_with_logits(LoadedModel& loaded, Sequence& sequence, std::span<const int32_t> tokens);

}  // namespace longhaul::golden
