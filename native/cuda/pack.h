// Host matrices on their way into the layout of weight_layout.h.
#pragma once

#include <span>

#include "core/backend.h"
#include "cuda/staging.h"

namespace longhaul::cuda {

// Rows, columns and dtype of the matrices stacked; no storage yet. kInvalidArgument when they do not stack.
Result<Weight> stacked(std::span<const Tensor> parts);

// Sends the rows of all parts, each padded with zeros to weight_pitch, to `device`. Queued when it returns; the
// parts are not needed any more.
Status send_rows(StagingRing& ring, std::span<const Tensor> parts, char* device);

}  // namespace longhaul::cuda
