// Copies to the host that nobody waits for.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cuda/status.h"

namespace longhaul::cuda {

// Through pinned memory.
Result<std::unique_ptr<Readback>> make_readback(Health& health, size_t bytes);

}  // namespace longhaul::cuda
