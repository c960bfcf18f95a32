// The entries of the CPU backend's table (core/ops.h says what they do). Arguments are already checked.
#pragma once

#include "core/ops.h"

namespace longhaul::cpu {

// dense.cc, gemm.cc
Status embed(Stream&, const EmbedArgs&);
Status rms_norm(Stream&, const RmsNormArgs&);
Status gemm(Stream&, const GemmArgs&, Workspace);
Status swiglu(Stream&, const SwigluArgs&);
Status rope_table(Stream&, const RopeTableArgs&);
Status rope(Stream&, const RopeArgs&);
Status gather_rows(Stream&, const GatherRowsArgs&);

// cache.cc, attention.cc
Status append(Stream&, const AppendArgs&);
Status attention(Stream&, const AttentionArgs&, Workspace);
Status merge_states(Stream&, const MergeStatesArgs&);
Status truncate(Stream&, const TruncateArgs&);

// scoring.cc, combine_scores.cc, selection.cc, cache.cc, pack_positions.cc, ranking.cc, copying.cc
Status score_keys(Stream&, const ScoreKeysArgs&, Workspace);
Status key_diversity(Stream&, const KeyDiversityArgs&, Workspace);
Status combine_scores(Stream&, const CombineScoresArgs&, Workspace);
Status select(Stream&, const SelectArgs&, Workspace);
Status compact(Stream&, const CompactArgs&);
Status pack_positions(Stream&, const PackPositionsArgs&);
Status rank_rows(Stream&, const RankRowsArgs&, Workspace);
Status copy_rows(Stream&, const CopyRowsArgs&);

// sampling.cc
Status sample(Stream&, const SampleArgs&, Workspace);

// routing.cc, experts.cc, expert_gradients.cc
Status route(Stream&, const RouteArgs&);
Status expert_shrink(Stream&, const ExpertShrinkArgs&, Workspace);
Status expert_expand(Stream&, const ExpertExpandArgs&, Workspace);
Status add_weighted_rows(Stream&, const AddWeightedRowsArgs&);
Status router_loss(Stream&, const RouterLossArgs&, Workspace);
Status route_backward(Stream&, const RouteBackwardArgs&);
Status expert_backward(Stream&, const ExpertBackwardArgs&, Workspace);
Status linear_backward(Stream&, const LinearBackwardArgs&);
// heads.cc, dense_attention.cc, attention_backward.cc
Status pack_heads(Stream&, const PackHeadsArgs&);
Status unpack_heads(Stream&, const UnpackHeadsArgs&);
Status dense_attention(Stream&, const DenseAttentionArgs&, Workspace);
Status dense_attention_backward(Stream&, const DenseAttentionBackwardArgs&);

size_t gemm_workspace(const GemmArgs&);
size_t attention_workspace(const AttentionArgs&);
size_t score_keys_workspace(const ScoreKeysArgs&);
size_t key_diversity_workspace(const KeyDiversityArgs&);
size_t combine_scores_workspace(const CombineScoresArgs&);
size_t select_workspace(const SelectArgs&);
size_t rank_rows_workspace(const RankRowsArgs&);
size_t sample_workspace(const SampleArgs&);
size_t expert_shrink_workspace(const ExpertShrinkArgs&);
size_t expert_expand_workspace(const ExpertExpandArgs&);
size_t router_loss_workspace(const RouterLossArgs&);
size_t expert_backward_workspace(const ExpertBackwardArgs&);
size_t dense_attention_workspace(const DenseAttentionArgs&);

}  // namespace longhaul::cpu
