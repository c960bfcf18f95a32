// Draws a token from each row of logits. The vocabulary is never sorted: top-k is a radix cut, top-p sorts only
// the narrow band of logits in which its cut falls.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/arena.h"
#include "core/random.h"
#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"
#include "cpu/radix_select.h"

namespace longhaul::cpu {
namespace {

constexpr float kDropped = -std::numeric_limits<float>::infinity();

// Rows in flight: they bound the workspace.
constexpr int64_t kSlots = 16;

struct SampleWorkspace {
  Tensor logits;   // [slots, vocab] f32, after the penalty; dropped tokens are -inf
  Tensor weights;  // [slots, vocab] f32, exp(logit - largest); 0 when dropped
  Tensor band;     // [slots, vocab] i32, ids around top-p's cut

  static SampleWorkspace lay_out(Arena& arena, const SampleArgs& a) {
    const int64_t slots = std::min(a.logits.shape[0], kSlots);
    const int64_t vocab = a.logits.shape[1];
    return {arena.take(DType::kF32, {slots, vocab}), arena.take(DType::kF32, {slots, vocab}),
            arena.take(DType::kI32, {slots, vocab})};
  }
};

class RowSampler {
 public:
  RowSampler(const AttentionKernels& kernels, const SampleArgs& a, const SampleWorkspace& workspace,
             int64_t slot)
      : kernels_(kernels),
        a_(a),
        vocab_(static_cast<int32_t>(a.logits.shape[1])),
        logits_(workspace.logits.as<float>() + slot * vocab_),
        weights_(workspace.weights.as<float>() + slot * vocab_),
        band_(workspace.band.as<int32_t>() + slot * vocab_) {}

  void sample(int64_t row) {
    const SampleParams& params = a_.params[row];
    auto* seen = a_.seen ? a_.seen.as<uint8_t>() + row * a_.seen.stride[0] : nullptr;
    auto* probabilities =
        a_.probabilities ? a_.probabilities.as<float>() + row * a_.probabilities.stride[0] : nullptr;
    load_logits(a_.logits.as<float>() + row * a_.logits.stride[0], seen, params.repetition_penalty);
    const auto best = static_cast<int32_t>(std::max_element(logits_, logits_ + vocab_) - logits_);
    int32_t id = best;
    // A row whose largest logit is not finite has no softmax: its arg-max is certain.
    if (params.temperature <= 0 || !std::isfinite(logits_[best])) {
      if (probabilities != nullptr) {
        std::fill_n(probabilities, vocab_, 0.0f);
        probabilities[best] = 1;
      }
    } else {
      keep_top_k(params.top_k);
      weigh(logits_[best], params.temperature);
      if (params.top_p < 1) keep_top_p(logits_[best], params.temperature, static_cast<double>(params.top_p));
      if (params.min_p > 0) keep_min_p(params.min_p);
      const double total = total_weight();
      id = draw(uniform01(params.seed, params.position) * total);
      if (probabilities != nullptr) {
        for (int32_t i = 0; i < vocab_; ++i) {
          probabilities[i] = static_cast<float>(static_cast<double>(weights_[i]) / total);
        }
      }
    }
    a_.ids.as<int32_t>()[row] = id;
    if (seen != nullptr) seen[id / 8] = static_cast<uint8_t>(seen[id / 8] | 1u << (id % 8));
  }

 private:
  void load_logits(const float* logits, const uint8_t* seen, float penalty) {
    for (int32_t i = 0; i < vocab_; ++i) logits_[i] = std::isnan(logits[i]) ? kDropped : logits[i];
    if (seen == nullptr || penalty == 1) return;
    for (int32_t byte = 0; byte < (vocab_ + 7) / 8; ++byte) {
      if (seen[byte] == 0) continue;
      for (int32_t i = byte * 8; i < std::min(byte * 8 + 8, vocab_); ++i) {
        if ((seen[byte] >> (i % 8) & 1) == 0) continue;
        logits_[i] = logits_[i] > 0 ? logits_[i] / penalty : logits_[i] * penalty;
      }
    }
  }

  void keep_top_k(int32_t k) {
    if (k <= 0 || k >= vocab_) return;
    const Cut cut = kth_largest(k, [&](auto&& visit) {
      for (int32_t i = 0; i < vocab_; ++i) visit(order_key(logits_[i]));
    });
    for (int32_t i = 0; i < vocab_; ++i) {
      if (order_key(logits_[i]) < cut.key) logits_[i] = kDropped;
    }
  }

  void weigh(float largest, float temperature) {
    std::copy_n(logits_, vocab_, weights_);
    kernels_.exp_row(weights_, vocab_, largest, 1 / temperature);
  }

  double total_weight() const {
    double total = 0;
    for (int32_t i = 0; i < vocab_; ++i) total += static_cast<double>(weights_[i]);
    return total;
  }

  // Keeps while the weight of all better tokens is below top_p of the total; the best stays anyhow. Equal
  // logits are ordered by id.
  void keep_top_p(float largest, float temperature, double top_p) {
    // Bands of equal width below the largest logit; the last takes all the rest, whose weight is next to
    // nothing.
    constexpr int kBands = 1024;
    const float bands_per_unit = 32 / temperature;
    const auto band_of = [&](int32_t i) {
      const float band = (largest - logits_[i]) * bands_per_unit;
      return band < kBands - 1 ? static_cast<int>(band) : kBands - 1;
    };
    std::array<double, kBands> weight_of_band{};
    for (int32_t i = 0; i < vocab_; ++i) weight_of_band[band_of(i)] += static_cast<double>(weights_[i]);
    double total = 0;
    for (const double weight : weight_of_band) total += weight;
    const double target = top_p * total;

    double before = 0;
    int cut = 0;
    while (cut < kBands && before + weight_of_band[cut] < target) before += weight_of_band[cut++];
    if (cut == kBands) return;
    int32_t count = 0;
    for (int32_t i = 0; i < vocab_; ++i) {
      if (band_of(i) == cut) band_[count++] = i;
    }
    std::sort(band_, band_ + count,
              [&](int32_t a, int32_t b) { return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b; });
    int32_t kept = cut == 0 ? 1 : 0;
    if (kept == 1) before += static_cast<double>(weights_[band_[0]]);
    while (kept < count && before < target) before += static_cast<double>(weights_[band_[kept++]]);
    for (int32_t i = 0; i < vocab_; ++i) {
      if (band_of(i) > cut) weights_[i] = 0;
    }
    for (int32_t i = kept; i < count; ++i) weights_[band_[i]] = 0;
  }

  // The largest weight is that of the best token: exp(0).
  void keep_min_p(float min_p) {
    for (int32_t i = 0; i < vocab_; ++i) {
      if (weights_[i] < min_p) weights_[i] = 0;
    }
  }

  // Inverse of the cumulative weight, in the order of ids.
  int32_t draw(double target) const {
    double sum = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < vocab_; ++i) {
      if (weights_[i] == 0) continue;
      last = i;
      sum += static_cast<double>(weights_[i]);
      if (sum > target) break;
    }
    return last;
  }

  const AttentionKernels& kernels_;
  const SampleArgs& a_;
  int32_t vocab_;
  float* logits_;
  float* weights_;
  int32_t* band_;
};

}  // namespace

size_t sample_workspace(const SampleArgs& a) {
  Arena arena;
  SampleWorkspace::lay_out(arena, a);
  return arena.used();
}

Status sample(Stream& stream, const SampleArgs& a, Workspace workspace) {
  CpuStream& cpu = cpu_stream(stream);
  Arena arena(workspace.data);
  const SampleWorkspace memory = SampleWorkspace::lay_out(arena, a);
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const int64_t rows = a.logits.shape[0];
  const int64_t slots = std::min(rows, kSlots);
  cpu.parallel_for(slots, [&](int64_t slot, int) {
    RowSampler sampler(*cpu.kernels().attention, a, memory, slot);
    for (int64_t row = slot; row < rows; row += slots) sampler.sample(row);
  });
  return {};
}

}  // namespace longhaul::cpu
