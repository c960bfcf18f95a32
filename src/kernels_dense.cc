#include "kernels.h"

namespace longhaul::kernels {

void embed(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t vocab = call.integer("vocab");
  const int64_t hidden = call.integer("hidden");
  call.require_below("ids", call.host("ids", HostArray::Kind::kI32, {rows}), vocab);
  const EmbedArgs args{.ids = call.tensor("ids", DType::kI32, {rows}),
                       .table = call.weight("table", vocab, hidden),
                       .out = call.zeros(DType::kF32, {rows, hidden})};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("out", args.out);
}

void rms_norm(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t dim = call.integer("dim");
  const RmsNormArgs args{.x = call.tensor("x", DType::kF32, {rows, dim}),
                         .delta = call.optional_tensor("delta", DType::kF32, {rows, dim}),
                         .weight = call.tensor("weight", DType::kF32, {dim}),
                         .out = call.zeros(DType::kF32, {rows, dim}),
                         .eps = call.real("eps")};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("out", args.out);
  if (args.delta) call.output("sum", args.x);
}

void gemm(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t outputs = call.integer("outputs");
  const int64_t cols = call.integer("cols");
  const Weight* weight = call.weight("weight", outputs, cols);
  if (!call.ok()) return;
  const DType act = call.backend().activation_dtype(weight->dtype);
  const GemmArgs args{.x = call.tensor("x", act, {rows, cols}),
                      .weight = weight,
                      .bias = call.optional_tensor("bias", DType::kF32, {outputs}),
                      .out = call.has("sum") ? call.tensor("sum", DType::kF32, {rows, outputs})
                                             : call.zeros(DType::kF32, {rows, outputs}),
                      .accumulate = call.has("sum")};
  const Workspace workspace = call.workspace(call.backend().ops().gemm_workspace(args));
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args, workspace));
  call.output("out", args.out);
}

void swiglu(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t ff = call.integer("ff");
  const SwigluArgs args{.gate_up = call.tensor("gateUp", DType::kF32, {rows, 2 * ff}),
                        .out = call.zeros(DType::kF32, {rows, ff})};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("out", args.out);
}

void rope_table(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t half = call.integer("half");
  const RopeTableArgs args{.positions = call.tensor("positions", DType::kI32, {rows}),
                           .frequencies = call.tensor("frequencies", DType::kF64, {half}),
                           .cos = call.zeros(DType::kF32, {rows, half}),
                           .sin = call.zeros(DType::kF32, {rows, half})};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("cos", args.cos);
  call.output("sin", args.sin);
}

void rope(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t heads = call.integer("heads");
  const int64_t dim = call.integer("headDim");
  const RopeArgs args{.x = call.tensor("x", DType::kF32, {rows, heads, dim}),
                      .cos = call.tensor("cos", DType::kF32, {rows, dim / 2}),
                      .sin = call.tensor("sin", DType::kF32, {rows, dim / 2})};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("out", args.x);
}

void gather_rows(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t dim = call.integer("dim");
  const int64_t count = call.integer("count");
  call.require_below("index", call.host("index", HostArray::Kind::kI32, {count}), rows);
  const GatherRowsArgs args{.x = call.tensor("x", DType::kF32, {rows, dim}),
                            .index = call.tensor("index", DType::kI32, {count}),
                            .out = call.zeros(DType::kF32, {count, dim})};
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args));
  call.output("out", args.out);
}

}  // namespace longhaul::kernels
