// Kernels of attention, scoring and the cache for one instruction set.
#pragma once

namespace longhaul::cpu {

struct AttentionKernels {};

}  // namespace longhaul::cpu
