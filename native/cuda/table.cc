#include "cuda/ops.h"

namespace longhaul::cuda {

const Ops kOps = {
    .embed = embed,
    .rms_norm = rms_norm,
    .gemm = gemm,
    .swiglu = swiglu,
    .rope_table = rope_table,
    .rope = rope,
    .gather_rows = gather_rows,
    .append = append,
    .attention = nullptr,
    .merge_states = nullptr,
    .truncate = truncate,
    .score_keys = nullptr,
    .key_diversity = nullptr,
    .select = nullptr,
    .compact = compact,
    .sample = nullptr,
    .gemm_workspace = gemm_workspace,
    .attention_workspace = nullptr,
    .score_keys_workspace = nullptr,
    .key_diversity_workspace = nullptr,
    .select_workspace = nullptr,
    .sample_workspace = nullptr,
};

}  // namespace longhaul::cuda
