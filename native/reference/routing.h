// One row of a router: from logits to weights, and the gradients of that.
#pragma once

#include <cstdint>
#include <vector>

#include "core/routing.h"

namespace longhaul::reference {

struct Route {
  std::vector<double> probabilities, weights;
  std::vector<bool> kept;
  double entropy = 0;
};

Route route_row(const std::vector<double>& logits, const RouterSettings& router);

// d entropy / d p_i; 0 where p_i is 0.
std::vector<double> entropy_gradient(const std::vector<double>& probabilities, const RouterSettings& router);

// The gradient of the logits from that of the probabilities.
std::vector<double> softmax_gradient(const std::vector<double>& probabilities,
                                     const std::vector<double>& gradient);

}  // namespace longhaul::reference
