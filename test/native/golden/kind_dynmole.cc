// Kinds `dynmole_router`, `dynmole_layer`, `dynmole_aux`: routers and LoRA experts by themselves, forward and
// back.
#include <cmath>

#include "kinds.h"

namespace longhaul::golden {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 24;

// The tensors of one computation in device memory.
class Workings {
 public:
  static Result<Workings> on(Backend& backend) {
    LONGHAUL_ASSIGN(std::unique_ptr<Stream> stream, backend.make_stream());
    return Workings(backend, std::move(stream));
  }

  Backend& backend() { return *backend_; }
  Stream& stream() { return *stream_; }

  // f32
  Result<Tensor> in(const Array& array) {
    LONGHAUL_ASSIGN(const Tensor tensor, out(DType::kF32, array.shape));
    const std::vector<float> values(array.values.begin(), array.values.end());
    LONGHAUL_TRY(backend_->upload(*stream_, tensor.data, values.data(), values.size() * sizeof(float)));
    return tensor;
  }
  Result<Tensor> out(DType dtype, const std::vector<int64_t>& shape) {
    if (shape.empty() || shape.size() > 3) return corrupt_file("a tensor has shape " + describe(shape));
    Tensor tensor = shape.size() == 1   ? Tensor::dense(nullptr, dtype, {shape[0]})
                    : shape.size() == 2 ? Tensor::dense(nullptr, dtype, {shape[0], shape[1]})
                                        : Tensor::dense(nullptr, dtype, {shape[0], shape[1], shape[2]});
    LONGHAUL_ASSIGN(Buffer buffer,
                    backend_->allocate(static_cast<size_t>(tensor.bytes()), MemoryUse::kWorkspace));
    tensor.data = buffers_.emplace_back(std::move(buffer)).data();
    return tensor;
  }
  Result<Workspace> workspace(size_t bytes) {
    LONGHAUL_ASSIGN(const Tensor tensor, out(DType::kU8, {static_cast<int64_t>(bytes) + 1}));
    return Workspace{tensor.data, bytes};
  }
  Result<Array> read(const Tensor& tensor) { return download(*backend_, *stream_, tensor); }

  Result<Weight> pack(const Array& matrix) {
    std::vector<float> values(matrix.values.begin(), matrix.values.end());
    const Tensor host = Tensor::dense(values.data(), DType::kF32, {matrix.shape[0], matrix.shape[1]});
    return backend_->pack(std::span(&host, 1));
  }

 private:
  Workings(Backend& backend, std::unique_ptr<Stream> stream) : backend_(&backend), stream_(std::move(stream)) {}

  Backend* backend_;
  std::unique_ptr<Stream> stream_;
  std::vector<Buffer> buffers_;
};

Result<RouterSettings> parse_router(const Json* options) {
  RouterSettings router;
  if (options == nullptr) return router;
  for (const Json::Member& member : options->members()) {
    const std::optional<double> number = member.value.as_double();
    const std::optional<bool> flag = member.value.as_bool();
    const std::string* const text = member.value.as_string();
    const std::string& name = member.name;
    if (name == "q" && number) {
      router.entropy_index = *number;
    } else if (name == "threshold" && number) {
      router.entropy_threshold = *number;
    } else if (name == "top_p" && number) {
      router.top_p = *number;
    } else if (name == "keep_top_k" && number) {
      router.keep_top_k = static_cast<int32_t>(*number);
    } else if (name == "eps" && number) {
      router.entropy_eps = *number;
    } else if (name == "renormalize" && flag) {
      router.renormalize = *flag;
    } else if (name == "includeCrossing" && flag) {
      router.include_crossing = *flag;
    } else if (name == "entropyNormalized" && flag) {
      router.entropy_normalized = *flag;
    } else if (name == "entropyMode" && text != nullptr && (*text == "stable" || *text == "reference")) {
      router.entropy_mode = *text == "stable" ? EntropyMode::kStable : EntropyMode::kReference;
    } else if (name == "entropyType" && text != nullptr && (*text == "renyi" || *text == "tsallis")) {
      router.entropy_type = *text == "renyi" ? EntropyType::kRenyi : EntropyType::kTsallis;
    } else {
      return unsupported("options: " + quote_for_message(name));
    }
  }
  return router;
}

struct Routed {
  Array weights, entropy, mask, logits;
};

Result<Routed> route(Workings& on, const Array& x, const Array& gate, const RouterSettings& router) {
  const int64_t rows = x.shape[0], experts = gate.shape[0];
  RouteArgs args{.router = router};
  LONGHAUL_ASSIGN(args.x, on.in(x));
  LONGHAUL_ASSIGN(args.gate, on.in(gate));
  LONGHAUL_ASSIGN(args.weights, on.out(DType::kF32, {rows, experts}));
  LONGHAUL_ASSIGN(args.entropy, on.out(DType::kF32, {rows}));
  LONGHAUL_ASSIGN(args.mask, on.out(DType::kU8, {rows, experts}));
  LONGHAUL_ASSIGN(args.logits, on.out(DType::kF32, {rows, experts}));
  LONGHAUL_TRY(run(on.backend(), on.stream(), args));
  Routed routed;
  LONGHAUL_ASSIGN(routed.weights, on.read(args.weights));
  LONGHAUL_ASSIGN(routed.entropy, on.read(args.entropy));
  LONGHAUL_ASSIGN(routed.mask, on.read(args.mask));
  LONGHAUL_ASSIGN(routed.logits, on.read(args.logits));
  return routed;
}

// The gate that gives x back: logits are the case's.
Array identity(int64_t experts) {
  Array gate = Array::of({experts, experts}, std::vector<double>(static_cast<size_t>(experts * experts)));
  for (int64_t e = 0; e < experts; ++e) gate.values[static_cast<size_t>(e * experts + e)] = 1;
  return gate;
}

// ---- losses
// --------------------------------------------------------------------------------------------------

struct Losses {
  Array usage, summary, dlogits;
};

Result<Losses> losses(Workings& on, const Array& logits, const Array* attended, const RouterSettings& router,
                      float entropy_scale, float balance_scale) {
  RouterLossArgs loss{.router = router, .entropy_scale = entropy_scale, .balance_scale = balance_scale};
  LONGHAUL_ASSIGN(loss.logits, on.in(logits));
  if (attended != nullptr) {
    LONGHAUL_ASSIGN(loss.attended, on.in(*attended));
  }
  LONGHAUL_ASSIGN(loss.usage, on.out(DType::kF32, {2, logits.shape[1]}));
  LONGHAUL_ASSIGN(loss.summary, on.out(DType::kF32, {4}));
  LONGHAUL_ASSIGN(const Workspace scratch, on.workspace(on.backend().ops().router_loss_workspace(loss)));
  LONGHAUL_TRY(run(on.backend(), on.stream(), loss, scratch));
  RouteBackwardArgs back{.logits = loss.logits,
                         .router = router,
                         .usage = loss.usage,
                         .summary = loss.summary,
                         .attended = loss.attended,
                         .entropy_scale = entropy_scale,
                         .balance_scale = balance_scale,
                         .loss_rows = logits.shape[0]};
  LONGHAUL_ASSIGN(back.dlogits, on.out(DType::kF32, logits.shape));
  LONGHAUL_TRY(run(on.backend(), on.stream(), back));
  Losses result;
  LONGHAUL_ASSIGN(result.usage, on.read(loss.usage));
  LONGHAUL_ASSIGN(result.summary, on.read(loss.summary));
  LONGHAUL_ASSIGN(result.dlogits, on.read(back.dlogits));
  return result;
}

Result<double> number(const Json& json, std::string_view name) {
  const Json* const member = json.find(name);
  const std::optional<double> value = member == nullptr ? std::nullopt : member->as_double();
  if (!value) return corrupt_file("case.json has no number " + quote_for_message(name));
  return *value;
}

// ---- rows of a router
// ----------------------------------------------------------------------------------------

Result<Array> numbers(const Json& row, std::string_view name) {
  const Json* const list = row.find(name);
  if (list == nullptr) return corrupt_file("a row has no " + quote_for_message(name));
  Array array = Array::of({1, 0}, {});
  if (list->is_array()) {
    for (const Json& item : list->items()) array.values.push_back(item.as_double().value_or(NAN));
  } else {
    array.values.push_back(list->as_double().value_or(NAN));
  }
  array.shape[1] = static_cast<int64_t>(array.values.size());
  return array;
}

// Of `H`, which has a wider one where q is nearly 1 and the published formula cancels.
Result<Limit> entropy_limit(const Json& case_json, const Limits& limits, const RouterSettings& router) {
  LONGHAUL_ASSIGN(const std::optional<Limit> plain, limits.find("H"));
  if (!plain) return corrupt_file("limits: there is no \"H\"");
  const Json* const near = case_json.find("limits")->find("H_near_q1");
  const Json* const when = near == nullptr ? nullptr : near->find("when");
  if (when == nullptr) return *plain;
  LONGHAUL_ASSIGN(const double distance, number(*when, "abs_q_minus_1_below"));
  if (std::fabs(router.entropy_index - 1) >= distance || router.entropy_mode != EntropyMode::kReference)
    return *plain;
  LONGHAUL_ASSIGN(const double abs, number(*near, "abs"));
  return Limit{.abs = abs};
}

Status run_row(Context& context, const Case& one, CaseReport& report, const Json& row,
               const std::string& name) {
  LONGHAUL_ASSIGN(const RouterSettings router, parse_router(row.find("options")));
  LONGHAUL_ASSIGN(const Array logits, numbers(row, "logits"));
  const int64_t experts = logits.shape[1];
  LONGHAUL_ASSIGN(Workings on, Workings::on(context.backend));
  LONGHAUL_ASSIGN(const Routed routed, route(on, logits, identity(experts), router));
  // A router that drops nothing tells the probabilities.
  LONGHAUL_ASSIGN(const Routed all,
                  route(on, logits, identity(experts), dense_router(static_cast<int32_t>(experts))));
  LONGHAUL_ASSIGN(const Losses entropy, losses(on, logits, nullptr, router, 1, 0));
  const auto judge = [&](const char* quantity, Array got) -> Status {
    LONGHAUL_ASSIGN(const Array reference, numbers(row, quantity));
    LONGHAUL_ASSIGN(std::optional<Limit> limit, report.limits().find(quantity));
    if (!limit) return corrupt_file("limits: there is no " + quote_for_message(quantity));
    if (std::string_view(quantity) == "H") {
      LONGHAUL_ASSIGN(limit, entropy_limit(one.json, report.limits(), router));
    }
    got.shape = reference.shape;
    report.add("", quantity, compare(*limit, got, reference, name + "." + quantity));
    return Status();
  };
  LONGHAUL_TRY(judge("p", all.weights));
  LONGHAUL_TRY(judge("g", routed.weights));
  LONGHAUL_TRY(judge("mask", routed.mask));
  LONGHAUL_TRY(judge("H", routed.entropy));
  return judge("dH_dz", entropy.dlogits);
}

// ---- one adapted projection
// ----------------------------------------------------------------------------------

// B_0 .. B_(E-1) beside each other, as expert_expand wants them: [outputs, experts * rank].
Array side_by_side(const Array& b) {
  const int64_t experts = b.shape[0], outputs = b.shape[1], rank = b.shape[2];
  Array out = Array::of({outputs, experts * rank}, std::vector<double>(b.values.size()));
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t n = 0; n < outputs; ++n) {
      for (int64_t k = 0; k < rank; ++k) {
        out.values[static_cast<size_t>((n * experts + e) * rank + k)] =
            b.values[static_cast<size_t>((e * outputs + n) * rank + k)];
      }
    }
  }
  return out;
}

Array stacked(const Array& a) {
  return Array::of({a.shape[0] * a.shape[1], a.shape[2]}, a.values);
}

Tensor without_part(const Tensor& t) {
  return Tensor::dense(t.data, t.dtype, {t.shape[0], t.shape[2]});
}

Status run_projection(Context& context, const Case& one, CaseReport& report, const GoldenFile& file) {
  LONGHAUL_ASSIGN(RouterSettings router, parse_router(one.json.find("options")));
  LONGHAUL_ASSIGN(const double scale, number(one.json, "scaling"));
  LONGHAUL_ASSIGN(const Array x, file.read("x"));
  LONGHAUL_ASSIGN(const Array base, file.read("W0"));
  LONGHAUL_ASSIGN(const Array gate, file.read("gate"));
  LONGHAUL_ASSIGN(const Array a, file.read("A"));
  LONGHAUL_ASSIGN(const Array b, file.read("B"));
  LONGHAUL_ASSIGN(const Array dout, file.read("dY"));
  const int64_t rows = x.shape[0], outputs = base.shape[0], experts = a.shape[0], rank = a.shape[1];

  LONGHAUL_ASSIGN(Workings on, Workings::on(context.backend));
  const Ops& ops = context.backend.ops();
  LONGHAUL_ASSIGN(const Routed routed, route(on, x, gate, router));
  LONGHAUL_ASSIGN(const Routed all, route(on, x, gate, dense_router(static_cast<int32_t>(experts))));
  LONGHAUL_TRY(report.compare(file, "", "p", all.weights));
  LONGHAUL_TRY(report.compare(file, "", "mask", routed.mask));

  LONGHAUL_ASSIGN(const Weight packed_base, on.pack(base));
  LONGHAUL_ASSIGN(const Weight packed_a, on.pack(stacked(a)));
  LONGHAUL_ASSIGN(const Weight packed_b, on.pack(side_by_side(b)));
  LONGHAUL_ASSIGN(const Tensor input, on.in(x));
  LONGHAUL_ASSIGN(const Tensor gate_weight, on.in(gate));
  LONGHAUL_ASSIGN(const Tensor y, on.out(DType::kF32, {rows, outputs}));
  const GemmArgs product{.x = input, .weight = &packed_base, .out = y};
  LONGHAUL_ASSIGN(const Workspace product_scratch, on.workspace(ops.gemm_workspace(product)));
  LONGHAUL_TRY(run(on.backend(), on.stream(), product, product_scratch));
  const ExpertSegment segment{.row_count = rows,
                              .parts = {ExpertPart{.experts = static_cast<int32_t>(experts),
                                                   .rank = static_cast<int32_t>(rank),
                                                   .scale = static_cast<float>(scale),
                                                   .a = &packed_a,
                                                   .b = &packed_b,
                                                   .weighted = true,
                                                   .gate = gate_weight,
                                                   .router = router}}};
  ExpertShrinkArgs shrink{.x = input, .segments = &segment, .segment_count = 1};
  LONGHAUL_ASSIGN(shrink.weights, on.out(DType::kF32, {rows, 1, experts}));
  LONGHAUL_ASSIGN(shrink.middle, on.out(DType::kF32, {rows, 1, experts * rank}));
  LONGHAUL_ASSIGN(shrink.logits, on.out(DType::kF32, {rows, 1, experts}));
  LONGHAUL_ASSIGN(shrink.entropy, on.out(DType::kF32, {rows, 1}));
  LONGHAUL_ASSIGN(const Workspace shrink_scratch, on.workspace(ops.expert_shrink_workspace(shrink)));
  LONGHAUL_TRY(run(on.backend(), on.stream(), shrink, shrink_scratch));
  ExpertExpandArgs expand{
      .middle = shrink.middle, .weights = shrink.weights, .segments = &segment, .segment_count = 1};
  expand.out[0] = y;
  LONGHAUL_ASSIGN(const Workspace expand_scratch, on.workspace(ops.expert_expand_workspace(expand)));
  LONGHAUL_TRY(run(on.backend(), on.stream(), expand, expand_scratch));

  ExpertBackwardArgs back{
      .x = input, .weights = without_part(shrink.weights), .scale = static_cast<float>(scale)};
  back.middle = Tensor::dense(shrink.middle.data, DType::kF32, {rows, experts, rank});
  LONGHAUL_ASSIGN(back.dout, on.in(dout));
  LONGHAUL_ASSIGN(back.a, on.in(a));
  LONGHAUL_ASSIGN(back.b, on.in(b));
  LONGHAUL_ASSIGN(back.dx, on.out(DType::kF32, x.shape));
  LONGHAUL_ASSIGN(back.da, on.out(DType::kF32, a.shape));
  LONGHAUL_ASSIGN(back.db, on.out(DType::kF32, b.shape));
  LONGHAUL_ASSIGN(back.dweights, on.out(DType::kF32, {rows, experts}));
  LONGHAUL_ASSIGN(const Workspace back_scratch, on.workspace(ops.expert_backward_workspace(back)));
  LONGHAUL_TRY(run(on.backend(), on.stream(), back, back_scratch));
  RouteBackwardArgs route_back{
      .logits = without_part(shrink.logits), .dweights = back.dweights, .router = router};
  LONGHAUL_ASSIGN(route_back.dlogits, on.out(DType::kF32, {rows, experts}));
  LONGHAUL_TRY(run(on.backend(), on.stream(), route_back));
  LinearBackwardArgs gate_back{.x = input, .dy = route_back.dlogits, .weight = gate_weight, .dx = back.dx};
  LONGHAUL_ASSIGN(gate_back.dweight, on.out(DType::kF32, gate.shape));
  LONGHAUL_TRY(run(on.backend(), on.stream(), gate_back));
  LinearBackwardArgs base_back{.dy = back.dout, .dx = back.dx};
  LONGHAUL_ASSIGN(base_back.weight, on.in(base));
  LONGHAUL_TRY(run(on.backend(), on.stream(), base_back));

  const auto judge = [&](const char* name, const Tensor& tensor) -> Status {
    LONGHAUL_ASSIGN(Array got, on.read(tensor));
    if (tensor.rank == 2 && tensor.shape[1] == 1) got.shape = {tensor.shape[0]};
    return report.compare(file, "", name, got);
  };
  LONGHAUL_TRY(judge("g", without_part(shrink.weights)));
  LONGHAUL_TRY(judge("H", shrink.entropy));
  LONGHAUL_TRY(judge("y", y));
  LONGHAUL_TRY(judge("dA", back.da));
  LONGHAUL_TRY(judge("dB", back.db));
  LONGHAUL_TRY(judge("dz", route_back.dlogits));
  LONGHAUL_TRY(judge("dgate", gate_back.dweight));
  return judge("dx", back.dx);
}

}  // namespace

Status run_dynmole_router(Context& context, const Case& one) {
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(one.json, false));
  CaseReport report(context.report, one.name, one.kind, limits);
  for (const char* name : {"rows", "flags"}) {
    LONGHAUL_ASSIGN(const Json rows, read_json_file(one.file(std::string(name) + ".json"), kMaxBytes));
    LONGHAUL_ASSIGN(const int64_t expected, one.integer(std::string("n_") + name));
    if (static_cast<int64_t>(rows.items().size()) != expected) {
      return corrupt_file(std::string(name) + ".json does not hold as many rows as case.json says");
    }
    for (size_t i = 0; i < rows.items().size(); ++i) {
      LONGHAUL_TRY(
          run_row(context, one, report, rows.items()[i], std::string(name) + "[" + std::to_string(i) + "]"));
    }
  }
  return Status();
}

Status run_dynmole_layer(Context& context, const Case& one) {
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(one.json, false));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(one.file("data.safetensors")));
  CaseReport report(context.report, one.name, one.kind, limits);
  LONGHAUL_TRY(run_projection(context, one, report, file));
  return report.require_all(file, "");
}

Status run_dynmole_aux(Context& context, const Case& one) {
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(one.json, false));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(one.file("data.safetensors")));
  CaseReport report(context.report, one.name, one.kind, limits);
  LONGHAUL_ASSIGN(const RouterSettings router, parse_router(one.json.find("options")));
  LONGHAUL_ASSIGN(const Json* const scales, one.object("coefficients"));
  LONGHAUL_ASSIGN(const double entropy_scale, number(*scales, "entropy"));
  LONGHAUL_ASSIGN(const double balance_scale, number(*scales, "balance"));
  LONGHAUL_ASSIGN(const double expected, number(one.json, "loss"));
  LONGHAUL_ASSIGN(const Array logits, file.read("logits"));
  Array attended;
  if (file.has("attn")) {
    LONGHAUL_ASSIGN(attended, file.read("attn"));
  }
  LONGHAUL_ASSIGN(Workings on, Workings::on(context.backend));
  LONGHAUL_ASSIGN(const Losses got,
                  losses(on, logits, file.has("attn") ? &attended : nullptr, router,
                         static_cast<float>(entropy_scale), static_cast<float>(balance_scale)));
  LONGHAUL_ASSIGN(const std::optional<Limit> limit, limits.find("loss"));
  if (!limit) return corrupt_file("limits: there is no \"loss\"");
  report.add("", "loss",
             compare(*limit, Array::of({1}, {got.summary.values[0]}), Array::of({1}, {expected}), "loss"));
  LONGHAUL_TRY(report.compare(file, "", "dz", got.dlogits));
  return report.require_all(file, "");
}

}  // namespace longhaul::golden
