#include <vector>

#include "kernels.h"

namespace longhaul::kernels {

void sample(KernelCall& call) {
  const int64_t rows = call.integer("rows");
  const int64_t vocab = call.integer("vocab");
  const HostArray* seeds = call.host("seeds", HostArray::Kind::kF64, {rows});
  const HostArray* positions = call.host("positions", HostArray::Kind::kF64, {rows});
  const SampleParams shared{.temperature = call.real("temperature"),
                            .top_k = call.index("topK"),
                            .top_p = call.real("topP"),
                            .min_p = call.real("minP"),
                            .repetition_penalty = call.real("repetitionPenalty")};
  if (!call.ok()) return;
  std::vector<SampleParams> params(static_cast<size_t>(rows), shared);
  for (size_t row = 0; row < params.size(); ++row) {
    params[row].seed = static_cast<uint64_t>(seeds->as<double>()[row]);
    params[row].position = static_cast<uint64_t>(positions->as<double>()[row]);
  }
  const int64_t params_bytes = rows * static_cast<int64_t>(sizeof(SampleParams));
  const SampleArgs args{.logits = call.tensor("logits", DType::kF32, {rows, vocab}),
                        .params = call.upload(params.data(), DType::kU8, {params_bytes}).as<SampleParams>(),
                        .seen = call.optional_tensor("seen", DType::kU8, {rows, (vocab + 7) / 8}),
                        .ids = call.zeros(DType::kI32, {rows}),
                        .probabilities = call.zeros(DType::kF32, {rows, vocab})};
  const Workspace workspace = call.workspace(call.backend().ops().sample_workspace(args));
  if (call.ok()) call.fail(run(call.backend(), call.stream(), args, workspace));
  call.output("ids", args.ids);
  call.output("probabilities", args.probabilities);
}

}  // namespace longhaul::kernels
