#include "cpu/routing.h"

#include <algorithm>
#include <cmath>

#include "cpu/backend.h"
#include "cpu/ops.h"
#include "cpu/product.h"
#include "cpu/row_tasks.h"

namespace longhaul::cpu {
namespace {

constexpr double kRenyiEps = 1e-10;  // of the published code

// The entropy of equal probabilities, or 1 where it is not divided by.
double divisor_of(int experts, const RouterSettings& r) {
  if (!r.entropy_normalized) return 1;
  const double d = r.entropy_index - 1;
  const double log_experts = std::log(static_cast<double>(experts));
  return r.entropy_type == EntropyType::kRenyi || d == 0 ? log_experts : -std::expm1(-d * log_experts) / d;
}

double entropy_of(const double* p, int experts, const RouterSettings& r) {
  if (experts == 1) return 0;
  const double d = r.entropy_index - 1;
  const bool stable = r.entropy_mode == EntropyMode::kStable;
  double sum = 0;
  for (int e = 0; e < experts; ++e) {
    const double t = stable ? p[e] : p[e] + r.entropy_eps;
    if (t <= 0) continue;
    const double log_t = std::log(t);
    if (d == 0) {
      sum -= t * log_t;
    } else {
      sum += stable ? -t * std::expm1(d * log_t) / d : std::exp(r.entropy_index * log_t);
    }
  }
  if (d != 0 && !stable) {
    sum = r.entropy_type == EntropyType::kRenyi ? std::log(sum + kRenyiEps) / -d : (1 - sum) / d;
  }
  return sum / divisor_of(experts, r);
}

}  // namespace

Route route_row(const float* logits, int experts, const RouterSettings& r) {
  Route route;
  double* const p = route.probabilities;
  const double most = *std::max_element(logits, logits + experts);
  double total = 0;
  for (int e = 0; e < experts; ++e) total += p[e] = std::exp(static_cast<double>(logits[e]) - most);
  for (int e = 0; e < experts; ++e) p[e] /= total;
  route.entropy = entropy_of(p, experts, r);

  const uint64_t all = experts == kMaxExperts ? ~uint64_t{0} : (uint64_t{1} << experts) - 1;
  if (r.entropy_threshold < 1 && route.entropy > r.entropy_threshold) {
    route.kept = all;
  } else {
    double before = 0;
    // The next in order: the largest of those not yet looked at, the lowest index among equals.
    uint64_t seen = 0;
    for (int j = 0; j < experts; ++j) {
      int best = -1;
      for (int e = 0; e < experts; ++e) {
        if ((seen >> e & 1) == 0 && (best < 0 || p[e] > p[best])) best = e;
      }
      seen |= uint64_t{1} << best;
      const double sum = before + p[best];
      if (j < r.keep_top_k || (r.include_crossing ? before < r.top_p : sum <= r.top_p)) {
        route.kept |= uint64_t{1} << best;
      } else {
        break;  // sums only grow
      }
      before = sum;
    }
  }
  double kept = 0;
  for (int e = 0; e < experts; ++e) kept += route.keeps(e) ? p[e] : 0;
  for (int e = 0; e < experts; ++e) {
    route.weights[e] = !route.keeps(e) ? 0 : r.renormalize ? p[e] / kept : p[e];
  }
  return route;
}

void entropy_gradient(const double* p, int experts, const RouterSettings& r, double* out) {
  const double q = r.entropy_index, d = q - 1;
  const bool stable = r.entropy_mode == EntropyMode::kStable;
  double sum = kRenyiEps;
  if (r.entropy_type == EntropyType::kRenyi) {
    for (int e = 0; e < experts; ++e) sum += std::pow(p[e] + r.entropy_eps, q);
  }
  const double divisor = experts == 1 ? 1 : divisor_of(experts, r);
  for (int e = 0; e < experts; ++e) {
    const double t = stable ? p[e] : p[e] + r.entropy_eps;
    double h = 0;
    if (experts > 1 && t > 0) {
      const double log_t = std::log(t);
      if (d == 0) {
        h = -(log_t + 1);
      } else if (stable) {
        h = -std::expm1(d * log_t) / d - std::exp(d * log_t);
      } else {
        h = -q * std::exp(d * log_t) / (r.entropy_type == EntropyType::kRenyi ? d * sum : d);
      }
    }
    out[e] = h / divisor;
  }
}

void add_softmax_gradient(const double* p, const double* gradient, int experts, double* out) {
  double mean = 0;
  for (int e = 0; e < experts; ++e) mean += p[e] * gradient[e];
  for (int e = 0; e < experts; ++e) out[e] += p[e] * (gradient[e] - mean);
}

Status route(Stream& base, const RouteArgs& a) {
  CpuStream& stream = cpu_stream(base);
  const ExpertKernels& kernels = *stream.kernels().experts;
  const int experts = static_cast<int>(a.gate.shape[0]);
  const int64_t cols = a.x.shape[1];
  for_rows(stream, a.x.shape[0], cols * experts, [&](int64_t row) {
    float logits[kMaxExperts];
    for (int e = 0; e < experts; ++e) {
      logits[e] =
          kernels.dot(at(a.x, row), element_of(a.x.dtype), static_cast<const float*>(at(a.gate, e)), cols);
    }
    const Route route = route_row(logits, experts, a.router);
    float* const weights = static_cast<float*>(at(a.weights, row));
    for (int e = 0; e < experts; ++e) {
      weights[e] = static_cast<float>(route.weights[e]);
      if (a.logits) static_cast<float*>(at(a.logits, row))[e] = logits[e];
      if (a.mask) static_cast<uint8_t*>(at(a.mask, row))[e] = route.keeps(e);
    }
    if (a.entropy) a.entropy.as<float>()[row] = static_cast<float>(route.entropy);
  });
  return {};
}

}  // namespace longhaul::cpu
