// Every op as plain loops in double precision: the truth of every test, written to be read and never optimised.
// Values are rounded only where an op writes them. "Device" memory is host memory here.
#pragma once

#include "core/ops.h"

namespace longhaul::reference {

Status embed(Stream&, const EmbedArgs&);
Status rms_norm(Stream&, const RmsNormArgs&);
Status gemm(Stream&, const GemmArgs&, Workspace);
Status swiglu(Stream&, const SwigluArgs&);
Status rope_table(Stream&, const RopeTableArgs&);
Status rope(Stream&, const RopeArgs&);
Status gather_rows(Stream&, const GatherRowsArgs&);
Status append(Stream&, const AppendArgs&);
Status attention(Stream&, const AttentionArgs&, Workspace);
Status merge_states(Stream&, const MergeStatesArgs&);
Status truncate(Stream&, const TruncateArgs&);
Status score_keys(Stream&, const ScoreKeysArgs&, Workspace);
Status key_diversity(Stream&, const KeyDiversityArgs&, Workspace);
Status combine_scores(Stream&, const CombineScoresArgs&, Workspace);
Status select(Stream&, const SelectArgs&, Workspace);
Status compact(Stream&, const CompactArgs&);
Status pack_positions(Stream&, const PackPositionsArgs&);
Status rank_rows(Stream&, const RankRowsArgs&, Workspace);
Status copy_rows(Stream&, const CopyRowsArgs&);
Status sample(Stream&, const SampleArgs&, Workspace);
Status route(Stream&, const RouteArgs&);
Status expert_shrink(Stream&, const ExpertShrinkArgs&, Workspace);
Status expert_expand(Stream&, const ExpertExpandArgs&, Workspace);
Status add_weighted_rows(Stream&, const AddWeightedRowsArgs&);
Status router_loss(Stream&, const RouterLossArgs&, Workspace);
Status route_backward(Stream&, const RouteBackwardArgs&);
Status expert_backward(Stream&, const ExpertBackwardArgs&, Workspace);
Status linear_backward(Stream&, const LinearBackwardArgs&);
Status pack_heads(Stream&, const PackHeadsArgs&);
Status unpack_heads(Stream&, const UnpackHeadsArgs&);
Status dense_attention(Stream&, const DenseAttentionArgs&, Workspace);
Status dense_attention_backward(Stream&, const DenseAttentionBackwardArgs&);

}  // namespace longhaul::reference
