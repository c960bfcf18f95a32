#include "kernel_cache.h"
#include "kernels.h"

namespace longhaul::kernels {

void score_keys(KernelCall& call) {
  KernelCache cache(call);
  const int64_t queries = call.integer("queries");
  const int64_t heads = call.integer("heads");
  const int32_t ignore_last = call.index("ignoreLast");
  const int32_t window = call.flag("window") ? static_cast<int32_t>(queries) : 0;
  if (call.ok() && ignore_last + int64_t{window} > cache.shortest()) {
    call.fail(invalid_argument("ignoreLast and the window are longer than a head's rows"));
  }
  const ScoreKeysArgs args{.pages = cache.pages(),
                           .view = cache.view(0),
                           .q = call.tensor("q", DType::kF32, {queries, heads, cache.head_dim()}),
                           .scores = call.zeros(DType::kF32, {cache.kv_heads(), cache.capacity()}),
                           .kv_heads = cache.kv_heads(),
                           .scale = call.real("scale"),
                           .ignore_last = ignore_last,
                           .window = window,
                           .reduce = call.text("reduce") == "mean" ? ScoreReduce::kMean : ScoreReduce::kMax,
                           .pool_kernel = call.index("poolKernel")};
  if (!call.ok()) return;
  const Workspace workspace = call.workspace(call.backend().ops().score_keys_workspace(args));
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args, workspace));
  call.output("scores", args.scores);
}

void key_diversity(KernelCall& call) {
  KernelCache cache(call);
  const KeyDiversityArgs args{.pages = cache.pages(),
                              .view = cache.view(0),
                              .scores = call.zeros(DType::kF32, {cache.kv_heads(), cache.capacity()}),
                              .kv_heads = cache.kv_heads(),
                              .ignore_last = call.index("ignoreLast")};
  if (call.ok() && args.ignore_last > cache.shortest()) {
    call.fail(invalid_argument("ignoreLast is longer than a head's rows"));
  }
  if (!call.ok()) return;
  const Workspace workspace = call.workspace(call.backend().ops().key_diversity_workspace(args));
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args, workspace));
  call.output("scores", args.scores);
}

void select(KernelCall& call) {
  const int32_t kv_heads = call.index("kvHeads");
  const int64_t capacity = call.integer("capacity");
  const HostArray* lengths = call.host("lengths", HostArray::Kind::kI32, {kv_heads});
  call.require_below("lengths", lengths, capacity + 1);
  const CacheView view{.length = call.tensor("lengths", DType::kI32, {kv_heads}).as<int32_t>()};
  const SelectArgs args{
      .view = call.upload(&view, DType::kU8, {static_cast<int64_t>(sizeof(CacheView))}).as<CacheView>(),
      .scores = call.optional_tensor("scores", DType::kF32, {kv_heads, capacity}),
      .kv_heads = kv_heads,
      .drop_last = call.index("dropLast"),
      .protect_first = call.index("protectFirst"),
      .protect_last = call.index("protectLast"),
      .budget = call.index("budget"),
      .level = call.text("level") == "head" ? SelectLevel::kHead : SelectLevel::kPair,
      .kept = call.zeros(DType::kI32, {kv_heads, capacity}),
      .kept_count = call.zeros(DType::kI32, {kv_heads})};
  if (!call.ok()) return;
  const Workspace workspace = call.workspace(call.backend().ops().select_workspace(args));
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args, workspace));
  call.output("kept", args.kept);
  call.output("keptCount", args.kept_count);
}

void compact(KernelCall& call) {
  KernelCache cache(call);
  const HostArray* counts = call.host("keptCount", HostArray::Kind::kI32, {cache.kv_heads()});
  call.require_below("keptCount", counts, cache.capacity() + 1);
  const HostArray* kept = call.host("kept", HostArray::Kind::kI32, {cache.kv_heads(), cache.capacity()});
  call.require_below("kept", kept, cache.capacity());
  const CompactArgs args{.pages = cache.pages(),
                         .view = cache.view(0),
                         .kept = call.tensor("kept", DType::kI32, {cache.kv_heads(), cache.capacity()}),
                         .kept_count = call.tensor("keptCount", DType::kI32, {cache.kv_heads()}),
                         .kv_heads = cache.kv_heads()};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  cache.output_rows();
}

}  // namespace longhaul::kernels
