// DoRA (arXiv 2402.09353): the factor that a magnitude vector m makes of a projection's output.
#pragma once

#include <span>
#include <vector>

#include "core/ops.h"

namespace longhaul {

// m_n / |W_n + scale * (B A)_n| of rows [first, first + m.size()) of `base`, which is packed: unit vectors are
// multiplied by it, some at a time, with the ops that passes use. Waits for the device.
Result<std::vector<float>> dora_factor(Backend& backend, Stream& stream, const Weight& base, int64_t first,
                                       const ExpertPart& part, std::span<const float> magnitude);

}  // namespace longhaul
