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
Status select(Stream&, const SelectArgs&, Workspace);
Status compact(Stream&, const CompactArgs&);
Status pack_positions(Stream&, const PackPositionsArgs&);
Status sample(Stream&, const SampleArgs&, Workspace);

}  // namespace longhaul::reference
