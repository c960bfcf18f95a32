#include <cmath>

#include "kernel_cache.h"
#include "kernels.h"

namespace longhaul::kernels {

void append(KernelCall& call) {
  KernelCache(call).output_rows();
}

void attention(KernelCall& call) {
  KernelCache cache(call);
  const int64_t rows = call.integer("queries");
  const int64_t heads = call.integer("heads");
  if (call.ok() && rows > cache.shortest()) {
    call.fail(invalid_argument("there are " + std::to_string(rows) + " queries, but a head holds only " +
                               std::to_string(cache.shortest()) + " rows, theirs counted"));
  }
  const AttentionArgs args{.pages = cache.pages(),
                           .views = cache.view(static_cast<int32_t>(rows)),
                           .sequences = 1,
                           .q = call.tensor("q", DType::kF32, {rows, heads, cache.head_dim()}),
                           .out = call.zeros(DType::kF32, {rows, heads, cache.head_dim()}),
                           .lse = call.zeros(DType::kF32, {rows, heads}),
                           .kv_heads = cache.kv_heads(),
                           .scale = call.real("scale"),
                           .max_length = static_cast<int32_t>(cache.capacity())};
  if (!call.ok()) return;
  const Workspace workspace = call.workspace(call.backend().ops().attention_workspace(args));
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args, workspace));
  call.output("out", args.out);
  call.output("lse", args.lse);
}

void merge_states(KernelCall& call) {
  const int64_t splits = call.integer("splits");
  const int64_t rows = call.integer("rows");
  const int64_t heads = call.integer("heads");
  const int64_t dim = call.integer("headDim");
  const MergeStatesArgs args{.parts = call.tensor("parts", DType::kF32, {splits, rows, heads, dim}),
                             .parts_lse = call.tensor("lses", DType::kF32, {splits, rows, heads}),
                             .out = call.zeros(DType::kF32, {rows, heads, dim}),
                             .lse = call.zeros(DType::kF32, {rows, heads})};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("out", args.out);
  call.output("lse", args.lse);
}

void truncate(KernelCall& call) {
  KernelCache cache(call);
  const TruncateArgs args{
      .views = cache.view(0), .sequences = 1, .kv_heads = cache.kv_heads(), .drop = call.index("drop")};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  cache.output_rows();
}

}  // namespace longhaul::kernels
