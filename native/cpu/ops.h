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

// scoring.cc, selection.cc, cache.cc, pack_positions.cc
Status score_keys(Stream&, const ScoreKeysArgs&, Workspace);
Status key_diversity(Stream&, const KeyDiversityArgs&, Workspace);
Status select(Stream&, const SelectArgs&, Workspace);
Status compact(Stream&, const CompactArgs&);
Status pack_positions(Stream&, const PackPositionsArgs&);

// sampling.cc
Status sample(Stream&, const SampleArgs&, Workspace);

size_t gemm_workspace(const GemmArgs&);
size_t attention_workspace(const AttentionArgs&);
size_t score_keys_workspace(const ScoreKeysArgs&);
size_t key_diversity_workspace(const KeyDiversityArgs&);
size_t select_workspace(const SelectArgs&);
size_t sample_workspace(const SampleArgs&);

}  // namespace longhaul::cpu
