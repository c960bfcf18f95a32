// One row of a router: from logits to weights, and the gradients of that. In double: it is little work, and a
// decision that falls another way than the formula's moves the output by a third.
#pragma once

#include <cstdint>

#include "core/routing.h"

namespace longhaul::cpu {

struct Route {
  double probabilities[kMaxExperts];
  double weights[kMaxExperts];
  uint64_t kept = 0;  // a bit an expert
  double entropy = 0;

  bool keeps(int expert) const { return (kept >> expert & 1) != 0; }
};

Route route_row(const float* logits, int experts, const RouterSettings& router);

// out[i] = d entropy / d p_i; 0 where p_i is 0.
void entropy_gradient(const double* probabilities, int experts, const RouterSettings& router, double* out);

// out += the gradient of the logits, from that of their softmax `p`.
void add_softmax_gradient(const double* p, const double* gradient, int experts, double* out);

}  // namespace longhaul::cpu
