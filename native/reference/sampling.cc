#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/random.h"
#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

constexpr double kDropped = -HUGE_VAL;

bool is_seen(const uint8_t* seen, size_t id) {
  return (seen[id / 8] >> (id % 8) & 1) != 0;
}

// The lowest id among the largest.
size_t arg_max(const std::vector<double>& x) {
  return static_cast<size_t>(std::max_element(x.begin(), x.end()) - x.begin());
}

void keep_top_k(std::vector<double>& logits, int32_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= logits.size()) return;
  std::vector<double> sorted = logits;
  std::nth_element(sorted.begin(), sorted.begin() + k - 1, sorted.end(), std::greater<>());
  const double threshold = sorted[static_cast<size_t>(k - 1)];
  for (double& x : logits) {
    if (x < threshold) x = kDropped;
  }
}

std::vector<double> softmax(const std::vector<double>& logits) {
  const double largest = logits[arg_max(logits)];
  std::vector<double> p(logits.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits[i] - largest);
  for (double& x : p) x /= sum;
  return p;
}

// Among equal logits the lower id comes first, so that the cut is one and the same everywhere.
void keep_top_p(std::vector<double>& logits, double top_p) {
  if (top_p >= 1) return;
  const std::vector<double> p = softmax(logits);
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  double before = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && before >= top_p) logits[order[i]] = kDropped;
    before += p[order[i]];
  }
}

void keep_min_p(std::vector<double>& logits, double min_p) {
  if (min_p <= 0) return;
  const std::vector<double> p = softmax(logits);
  const double threshold = min_p * p[arg_max(p)];
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] < threshold) logits[i] = kDropped;
  }
}

// The distribution of one row. A row whose largest logit is not finite has no softmax: its arg-max is certain.
std::vector<double> distribution(std::vector<double> logits, const SampleParams& params) {
  const size_t best = arg_max(logits);
  if (params.temperature <= 0 || !std::isfinite(logits[best])) {
    std::vector<double> p(logits.size(), 0);
    p[best] = 1;
    return p;
  }
  for (double& x : logits) x /= static_cast<double>(params.temperature);
  keep_top_k(logits, params.top_k);
  keep_top_p(logits, static_cast<double>(params.top_p));
  keep_min_p(logits, static_cast<double>(params.min_p));
  return softmax(logits);
}

// Inverse of the cumulative distribution, in the order of ids.
size_t draw(const std::vector<double>& p, double u) {
  const double target = u * std::accumulate(p.begin(), p.end(), 0.0);
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) continue;
    last = i;
    sum += p[i];
    if (sum > target) break;
  }
  return last;
}

}  // namespace

Status sample(Stream&, const SampleArgs& a, Workspace) {
  std::vector<double> logits;
  for (int64_t i = 0; i < a.logits.shape[0]; ++i) {
    const SampleParams& params = a.params[i];
    uint8_t* seen = a.seen ? a.seen.as<uint8_t>() + row_at(a.seen, i) : nullptr;
    load_row(a.logits, row_at(a.logits, i), logits);
    const auto penalty = static_cast<double>(params.repetition_penalty);
    for (size_t id = 0; id < logits.size(); ++id) {
      double& x = logits[id];
      if (std::isnan(x)) x = kDropped;
      if (seen != nullptr && penalty != 1 && is_seen(seen, id)) x = x > 0 ? x / penalty : x * penalty;
    }
    const std::vector<double> p = distribution(logits, params);
    const size_t id = draw(p, uniform01(params.seed, params.position));
    a.ids.as<int32_t>()[i] = static_cast<int32_t>(id);
    if (seen != nullptr) seen[id / 8] = static_cast<uint8_t>(seen[id / 8] | 1u << (id % 8));
    if (a.probabilities) store_row(a.probabilities, row_at(a.probabilities, i), p);
  }
  return Status();
}

}  // namespace longhaul::reference
