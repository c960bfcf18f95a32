#include "cuda/ops.h"

namespace longhaul::cuda {

const Ops kOps = {
    .embed = nullptr,
    .rms_norm = nullptr,
    .gemm = nullptr,
    .swiglu = nullptr,
    .rope_table = nullptr,
    .rope = nullptr,
    .gather_rows = nullptr,
    .append = nullptr,
    .attention = nullptr,
    .merge_states = nullptr,
    .truncate = nullptr,
    .score_keys = nullptr,
    .key_diversity = nullptr,
    .select = nullptr,
    .compact = nullptr,
    .sample = nullptr,
    .gemm_workspace = nullptr,
    .attention_workspace = nullptr,
    .score_keys_workspace = nullptr,
    .key_diversity_workspace = nullptr,
    .select_workspace = nullptr,
    .sample_workspace = nullptr,
};

}  // namespace longhaul::cuda
