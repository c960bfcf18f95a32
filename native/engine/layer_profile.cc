#include "engine/layer_profile.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace longhaul {
namespace {

Status check(const ProfileOptions& options) {
  if (options.block < 1) {
    return invalid_argument("block must be at least 1, not " + std::to_string(options.block));
  }
  if (options.window < 1 || options.window > options.block) {
    return invalid_argument("window must be from 1 to block (" + std::to_string(options.block) + "), not " +
                            std::to_string(options.window));
  }
  const int32_t most = std::numeric_limits<int32_t>::max() - options.window;
  if (options.sinks < 0 || options.sinks > most) {
    return invalid_argument("sinks must be from 0 to " + std::to_string(most) + ", not " +
                            std::to_string(options.sinks));
  }
  return Status();
}

MemoryPolicy windowed_policy(const ProfileOptions& options, int64_t layers) {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kStreaming;
  policy.level = SelectLevel::kHead;
  policy.budgets.assign(static_cast<size_t>(layers), options.sinks + options.window);
  policy.block = options.block;
  policy.tail = 1;  // nothing goes there; a policy has at least one row
  policy.sinks = options.sinks;
  return policy;
}

Status explain(const Status& status, int64_t tokens) {
  if (status.code() != Code::kOutOfMemory) return status;
  return out_of_memory("a profile of " + std::to_string(tokens) +
                       " tokens keeps all of their keys and values, and a windowed cache beside them; raise "
                       "kvBytes, take fewer tokens or a smaller block and window: " +
                       status.message());
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double product = 0;
  double a_squared = 0;
  double b_squared = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i];
    const double y = b[i];
    product += x * y;
    a_squared += x * x;
    b_squared += y * y;
  }
  const double lengths = std::sqrt(a_squared * b_squared);
  // A key of zeros has no direction: it is like another of zeros and unlike all else.
  if (lengths == 0) return a_squared == b_squared ? 1 : 0;
  return std::clamp(product / lengths, -1.0, 1.0);
}

}  // namespace

// Adds up, in the windowed run's pass over a block, the cosines of its keys with those the full run has
// already.
class LayerProfile::KeyComparison final : public PassObserver {
 public:
  KeyComparison(LayerProfile& profile, int32_t rows) : profile_(profile), rows_(rows) {}

  Status on_hidden(int32_t, const Tensor&) override { return Status(); }
  Status on_evicted(int32_t) override { return Status(); }

  // The layer's keys are all in the cache, and its eviction comes next.
  Status on_scores(int32_t layer, const Tensor&, int32_t) override {
    LONGHAUL_ASSIGN(const std::vector<float> full, profile_.full_->cache().read_newest_keys(layer, rows_));
    LONGHAUL_ASSIGN(const std::vector<float> windowed,
                    profile_.windowed_->cache().read_newest_keys(layer, rows_));
    const size_t dim = static_cast<size_t>(profile_.model_.config().head_dim);
    double sum = 0;
    for (size_t key = 0; key < full.size(); key += dim) {
      sum += cosine(std::span(full).subspan(key, dim), std::span(windowed).subspan(key, dim));
    }
    profile_.cosines_[static_cast<size_t>(layer)] += sum;
    return Status();
  }

 private:
  LayerProfile& profile_;
  int32_t rows_;
};

Result<std::unique_ptr<LayerProfile>> LayerProfile::create(Transformer& model, PagePool& pool,
                                                           std::vector<int32_t> tokens,
                                                           const ProfileOptions& options) {
  LONGHAUL_TRY(check(options));
  if (tokens.empty()) return invalid_argument("there is no token to profile the layers by");
  const int64_t layers = model.config().layers;
  std::unique_ptr<LayerProfile> profile(new LayerProfile(model, std::move(tokens)));
  profile->cosines_.resize(static_cast<size_t>(layers));

  MemoryPolicy full;
  full.block = options.block;
  Result<std::unique_ptr<Sequence>> sequence = Sequence::create(model, pool, full);
  LONGHAUL_TRY(explain(sequence.status(), profile->total()));
  profile->full_ = std::move(sequence.value());
  LONGHAUL_TRY(explain(profile->full_->admit(profile->total()), profile->total()));
  sequence = Sequence::create(model, pool, windowed_policy(options, layers));
  LONGHAUL_TRY(explain(sequence.status(), profile->total()));
  profile->windowed_ = std::move(sequence.value());
  return profile;
}

Status LayerProfile::step() {
  const int64_t rows = std::min<int64_t>(total() - done_, full_->policy().block);
  const std::span<const int32_t> block(tokens_.data() + done_, static_cast<size_t>(rows));
  LONGHAUL_TRY(full_->extend(block));
  LONGHAUL_TRY(full_->settle());  // a block of one token is only queued, and its keys are read below
  KeyComparison comparison(*this, static_cast<int32_t>(rows));
  LONGHAUL_TRY(windowed_->prefill(block, &comparison));
  done_ += rows;
  return Status();
}

Result<std::vector<double>> LayerProfile::similarity() const {
  const double keys = static_cast<double>(done_ * model_.config().kv_heads);
  std::vector<double> means;
  for (size_t layer = 0; layer < cosines_.size(); ++layer) {
    if (!std::isfinite(cosines_[layer])) {
      return corrupt_file("keys of layer " + std::to_string(layer) +
                          " are no numbers: the model's weights are damaged or overflow");
    }
    means.push_back(cosines_[layer] / keys);
  }
  return means;
}

}  // namespace longhaul
