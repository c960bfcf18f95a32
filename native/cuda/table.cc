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
    .attention = attention,
    .merge_states = merge_states,
    .truncate = truncate,
    .score_keys = score_keys,
    .key_diversity = key_diversity,
    .select = select,
    .compact = compact,
    .pack_positions = pack_positions,
    .sample = sample,
    .gemm_workspace = gemm_workspace,
    .attention_workspace = attention_workspace,
    .score_keys_workspace = score_keys_workspace,
    .key_diversity_workspace = key_diversity_workspace,
    .select_workspace = select_workspace,
    .sample_workspace = sample_workspace,
};

}  // namespace longhaul::cuda
