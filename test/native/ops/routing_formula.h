// What a router does, written once more for tests: from one row of logits to weights, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "core/routing.h"

namespace longhaul::testing {

struct RoutedRow {
  std::vector<double> p, weights;
  std::vector<int> mask;
  double entropy = 0;
};

inline double formula_entropy(const std::vector<double>& p, const RouterSettings& r) {
  const double q = r.entropy_index, n = static_cast<double>(p.size());
  if (n == 1) return 0;
  const bool stable = r.entropy_mode == EntropyMode::kStable;
  double shannon = 0, power = 0;
  for (double x : p) {
    const double t = stable ? x : x + r.entropy_eps;
    if (t == 0) continue;
    shannon -= t * std::log(t);
    power += std::pow(t, q);
  }
  const bool renyi = r.entropy_type == EntropyType::kRenyi;
  double value, most;
  if (q == 1) {
    value = shannon;
    most = std::log(n);
  } else if (renyi) {
    value = std::log(power + 1e-10) / (1 - q);
    most = std::log(n);
  } else {
    value = (1 - power) / (q - 1);
    most = (1 - std::pow(n, 1 - q)) / (q - 1);
  }
  return r.entropy_normalized ? value / most : value;
}

inline RoutedRow formula_route(const std::vector<double>& logits, const RouterSettings& r) {
  RoutedRow row;
  const double most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double z : logits) total += std::exp(z - most);
  for (double z : logits) row.p.push_back(std::exp(z - most) / total);
  row.entropy = formula_entropy(row.p, r);
  std::vector<std::pair<double, int>> order;
  for (size_t e = 0; e < row.p.size(); ++e) order.emplace_back(-row.p[e], static_cast<int>(e));
  std::sort(order.begin(), order.end());
  row.mask.assign(row.p.size(), 0);
  double sum = 0;
  for (size_t j = 0; j < order.size(); ++j) {
    const double before = sum;
    sum -= order[j].first;
    const bool inside = r.include_crossing ? before < r.top_p : sum <= r.top_p;
    if (inside || static_cast<int>(j) < r.keep_top_k) row.mask[static_cast<size_t>(order[j].second)] = 1;
  }
  if (r.entropy_threshold < 1 && row.entropy > r.entropy_threshold) row.mask.assign(row.p.size(), 1);
  double kept = 0;
  for (size_t e = 0; e < row.p.size(); ++e) kept += row.mask[e] * row.p[e];
  for (size_t e = 0; e < row.p.size(); ++e) {
    row.weights.push_back(row.mask[e] * row.p[e] / (r.renormalize ? kept : 1));
  }
  return row;
}

// How far the row is from being decided otherwise: the entropy's threshold, an edge of top_p, a change of
// order.
inline double decision_margin(const RoutedRow& row, const RouterSettings& r) {
  double margin = 9;
  if (r.entropy_threshold < 1) margin = std::fabs(row.entropy - r.entropy_threshold);
  std::vector<double> p = row.p;
  std::sort(p.begin(), p.end(), std::greater<>());
  double sum = 0;
  for (size_t j = 0; j < p.size(); ++j) {
    sum += p[j];
    if (static_cast<int>(j) + 1 >= r.keep_top_k) margin = std::min(margin, std::fabs(sum - r.top_p));
    if (j + 1 < p.size() && static_cast<int>(j) + 1 >= r.keep_top_k) margin = std::min(margin, p[j] - p[j + 1]);
  }
  return margin;
}

}  // namespace longhaul::testing
