#include "reference/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

constexpr double kRenyiEps = 1e-10;  // of the published code

// The entropy of equal probabilities, or 1 where it is not divided by.
double entropy_divisor(size_t experts, const RouterSettings& r) {
  if (!r.entropy_normalized) return 1;
  const double log_experts = std::log(static_cast<double>(experts));
  const double d = r.entropy_index - 1;
  if (r.entropy_type == EntropyType::kRenyi || d == 0) return log_experts;
  return -std::expm1(-d * log_experts) / d;
}

double entropy_of(const std::vector<double>& p, const RouterSettings& r) {
  if (p.size() == 1) return 0;
  const double q = r.entropy_index;
  double sum = 0;
  if (r.entropy_mode == EntropyMode::kStable) {
    for (double x : p) {
      if (x > 0) sum -= q == 1 ? x * std::log(x) : x * std::expm1((q - 1) * std::log(x)) / (q - 1);
    }
    return sum / entropy_divisor(p.size(), r);
  }
  for (double x : p) {
    const double t = x + r.entropy_eps;
    if (t > 0) sum += q == 1 ? -t * std::log(t) : std::pow(t, q);
  }
  if (q != 1) {
    sum = r.entropy_type == EntropyType::kRenyi ? std::log(sum + kRenyiEps) / (1 - q) : (1 - sum) / (q - 1);
  }
  return sum / entropy_divisor(p.size(), r);
}

}  // namespace

Route route_row(const std::vector<double>& logits, const RouterSettings& r) {
  const size_t experts = logits.size();
  Route route;
  const double most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double z : logits) total += route.probabilities.emplace_back(std::exp(z - most));
  for (double& p : route.probabilities) p /= total;
  const std::vector<double>& p = route.probabilities;
  route.entropy = entropy_of(p, r);

  std::vector<size_t> order(experts);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  route.kept.assign(experts, false);
  double before = 0;
  for (size_t j = 0; j < experts; ++j) {
    const double sum = before + p[order[j]];
    const bool inside = r.include_crossing ? before < r.top_p : sum <= r.top_p;
    route.kept[order[j]] = inside || j < static_cast<size_t>(r.keep_top_k);
    before = sum;
  }
  if (r.entropy_index > 0 && r.entropy_threshold < 1 && route.entropy > r.entropy_threshold) {
    route.kept.assign(experts, true);
  }

  route.weights.assign(experts, 0);
  double kept = 0;
  for (size_t e = 0; e < experts; ++e) kept += route.kept[e] ? p[e] : 0;
  for (size_t e = 0; e < experts; ++e) {
    if (route.kept[e]) route.weights[e] = r.renormalize ? p[e] / kept : p[e];
  }
  return route;
}

std::vector<double> entropy_gradient(const std::vector<double>& p, const RouterSettings& r) {
  const double q = r.entropy_index;
  const double d = q - 1;
  const double divisor = entropy_divisor(p.size(), r);
  double sum = kRenyiEps;
  for (double x : p) sum += std::pow(x + r.entropy_eps, q);
  std::vector<double> gradient;
  for (double x : p) {
    const bool stable = r.entropy_mode == EntropyMode::kStable;
    const double t = stable ? x : x + r.entropy_eps;
    double h;
    if (p.size() == 1 || t <= 0) {
      h = 0;
    } else if (q == 1) {
      h = -(std::log(t) + 1);
    } else if (stable) {
      h = -std::expm1(d * std::log(t)) / d - std::exp(d * std::log(t));
    } else if (r.entropy_type == EntropyType::kRenyi) {
      h = q * std::pow(t, d) / (-d * sum);
    } else {
      h = -q * std::pow(t, d) / d;
    }
    gradient.push_back(h / (p.size() == 1 ? 1 : divisor));
  }
  return gradient;
}

std::vector<double> softmax_gradient(const std::vector<double>& p, const std::vector<double>& gradient) {
  const double mean = dot(p.data(), gradient.data(), static_cast<int64_t>(p.size()));
  std::vector<double> out(p.size());
  for (size_t e = 0; e < p.size(); ++e) out[e] = p[e] * (gradient[e] - mean);
  return out;
}

Status route(Stream&, const RouteArgs& a) {
  const int64_t experts = a.gate.shape[0];
  std::vector<double> x, gate, logits(static_cast<size_t>(experts));
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    load_row(a.x, row_at(a.x, i), x);
    for (int64_t e = 0; e < experts; ++e) {
      load_row(a.gate, row_at(a.gate, e), gate);
      logits[static_cast<size_t>(e)] = dot(x.data(), gate.data(), row_length(a.x));
    }
    const Route row = route_row(logits, a.router);
    store_row(a.weights, row_at(a.weights, i), row.weights);
    if (a.logits) store_row(a.logits, row_at(a.logits, i), logits);
    if (a.entropy) a.entropy.as<float>()[i] = static_cast<float>(row.entropy);
    if (a.mask) std::copy(row.kept.begin(), row.kept.end(), a.mask.as<uint8_t>() + i * experts);
  }
  return Status();
}

}  // namespace longhaul::reference
