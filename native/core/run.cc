// The one way into an op: arguments are checked, then the backend's entry is called.
#include "core/ops.h"

namespace longhaul {
namespace {

Status missing(const Backend& backend, const char* op) {
  return unsupported(std::string("device '") + backend.name() + "' has no operation '" + op + "'");
}

template <class Args>
Status call(Backend& backend, Stream& stream, const char* op, Status (*entry)(Stream&, const Args&),
            const Args& args) {
  LONGHAUL_TRY(check(args));
  if (entry == nullptr) return missing(backend, op);
  return entry(stream, args);
}

template <class Args>
Status call(Backend& backend, Stream& stream, const char* op, Status (*entry)(Stream&, const Args&, Workspace),
            size_t (*query)(const Args&), const Args& args, Workspace workspace) {
  LONGHAUL_TRY(check(args));
  if (entry == nullptr || query == nullptr) return missing(backend, op);
  const size_t needed = query(args);
  if (workspace.bytes < needed || (needed > 0 && workspace.data == nullptr)) {
    return invalid_argument(std::string(op) + ": workspace has " + std::to_string(workspace.bytes) +
                            " bytes, needs " + std::to_string(needed));
  }
  return entry(stream, args, workspace);
}

}  // namespace

Status run(Backend& b, Stream& s, const EmbedArgs& a) {
  return call(b, s, "embed", b.ops().embed, a);
}
Status run(Backend& b, Stream& s, const RmsNormArgs& a) {
  return call(b, s, "rms_norm", b.ops().rms_norm, a);
}
Status run(Backend& b, Stream& s, const GemmArgs& a, Workspace w) {
  return call(b, s, "gemm", b.ops().gemm, b.ops().gemm_workspace, a, w);
}
Status run(Backend& b, Stream& s, const SwigluArgs& a) {
  return call(b, s, "swiglu", b.ops().swiglu, a);
}
Status run(Backend& b, Stream& s, const RopeTableArgs& a) {
  return call(b, s, "rope_table", b.ops().rope_table, a);
}
Status run(Backend& b, Stream& s, const RopeArgs& a) {
  return call(b, s, "rope", b.ops().rope, a);
}
Status run(Backend& b, Stream& s, const GatherRowsArgs& a) {
  return call(b, s, "gather_rows", b.ops().gather_rows, a);
}
Status run(Backend& b, Stream& s, const AppendArgs& a) {
  return call(b, s, "append", b.ops().append, a);
}
Status run(Backend& b, Stream& s, const AttentionArgs& a, Workspace w) {
  return call(b, s, "attention", b.ops().attention, b.ops().attention_workspace, a, w);
}
Status run(Backend& b, Stream& s, const MergeStatesArgs& a) {
  return call(b, s, "merge_states", b.ops().merge_states, a);
}
Status run(Backend& b, Stream& s, const TruncateArgs& a) {
  return call(b, s, "truncate", b.ops().truncate, a);
}
Status run(Backend& b, Stream& s, const ScoreKeysArgs& a, Workspace w) {
  return call(b, s, "score_keys", b.ops().score_keys, b.ops().score_keys_workspace, a, w);
}
Status run(Backend& b, Stream& s, const KeyDiversityArgs& a, Workspace w) {
  return call(b, s, "key_diversity", b.ops().key_diversity, b.ops().key_diversity_workspace, a, w);
}
Status run(Backend& b, Stream& s, const CombineScoresArgs& a, Workspace w) {
  return call(b, s, "combine_scores", b.ops().combine_scores, b.ops().combine_scores_workspace, a, w);
}
Status run(Backend& b, Stream& s, const SelectArgs& a, Workspace w) {
  return call(b, s, "select", b.ops().select, b.ops().select_workspace, a, w);
}
Status run(Backend& b, Stream& s, const CompactArgs& a) {
  return call(b, s, "compact", b.ops().compact, a);
}
Status run(Backend& b, Stream& s, const PackPositionsArgs& a) {
  return call(b, s, "pack_positions", b.ops().pack_positions, a);
}
Status run(Backend& b, Stream& s, const RankRowsArgs& a, Workspace w) {
  return call(b, s, "rank_rows", b.ops().rank_rows, b.ops().rank_rows_workspace, a, w);
}
Status run(Backend& b, Stream& s, const CopyRowsArgs& a) {
  return call(b, s, "copy_rows", b.ops().copy_rows, a);
}
Status run(Backend& b, Stream& s, const SampleArgs& a, Workspace w) {
  return call(b, s, "sample", b.ops().sample, b.ops().sample_workspace, a, w);
}
Status run(Backend& b, Stream& s, const RouteArgs& a) {
  return call(b, s, "route", b.ops().route, a);
}
Status run(Backend& b, Stream& s, const ExpertShrinkArgs& a, Workspace w) {
  return call(b, s, "expert_shrink", b.ops().expert_shrink, b.ops().expert_shrink_workspace, a, w);
}
Status run(Backend& b, Stream& s, const ExpertExpandArgs& a, Workspace w) {
  return call(b, s, "expert_expand", b.ops().expert_expand, b.ops().expert_expand_workspace, a, w);
}
Status run(Backend& b, Stream& s, const AddWeightedRowsArgs& a) {
  return call(b, s, "add_weighted_rows", b.ops().add_weighted_rows, a);
}
Status run(Backend& b, Stream& s, const RouterLossArgs& a, Workspace w) {
  return call(b, s, "router_loss", b.ops().router_loss, b.ops().router_loss_workspace, a, w);
}
Status run(Backend& b, Stream& s, const RouteBackwardArgs& a) {
  return call(b, s, "route_backward", b.ops().route_backward, a);
}
Status run(Backend& b, Stream& s, const ExpertBackwardArgs& a, Workspace w) {
  return call(b, s, "expert_backward", b.ops().expert_backward, b.ops().expert_backward_workspace, a, w);
}
Status run(Backend& b, Stream& s, const LinearBackwardArgs& a) {
  return call(b, s, "linear_backward", b.ops().linear_backward, a);
}
Status run(Backend& b, Stream& s, const PackHeadsArgs& a) {
  return call(b, s, "pack_heads", b.ops().pack_heads, a);
}
Status run(Backend& b, Stream& s, const UnpackHeadsArgs& a) {
  return call(b, s, "unpack_heads", b.ops().unpack_heads, a);
}
Status run(Backend& b, Stream& s, const DenseAttentionArgs& a, Workspace w) {
  return call(b, s, "dense_attention", b.ops().dense_attention, b.ops().dense_attention_workspace, a, w);
}
Status run(Backend& b, Stream& s, const DenseAttentionBackwardArgs& a) {
  return call(b, s, "dense_attention_backward", b.ops().dense_attention_backward, a);
}

}  // namespace longhaul
