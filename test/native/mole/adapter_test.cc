#include "mole/adapter.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/arena.h"
#include "mole/adapter_case.h"

namespace longhaul {
namespace {

// DynMoLE on q, MixLoRA on the FFN, or a LoRA with a magnitude on o.
Adapter make(AdapterKind kind) {
  Adapter adapter;
  adapter.kind = kind;
  adapter.layers.resize(2);
  adapter.memory.reset(new std::byte[1 << 16]());
  Arena arena(adapter.memory.get());
  const Projection p = kind == AdapterKind::kDynMole   ? Projection::kQ
                       : kind == AdapterKind::kMixLora ? Projection::kUp
                                                       : Projection::kO;
  const int32_t experts = kind == AdapterKind::kLora ? 1 : 3;
  for (LayerAdapter& layer : adapter.layers) {
    ProjectionAdapter& part = layer[p];
    part.experts = experts;
    part.rank = 2;
    part.scale = 1;
    part.a = arena.take(DType::kBf16, {experts, 2, kSmallModel.inputs(p)});
    part.b = arena.take(DType::kBf16, {experts, kSmallModel.outputs(p), 2});
    if (kind == AdapterKind::kDynMole) part.router = arena.take(DType::kF32, {3, kSmallModel.inputs(p)});
    if (kind == AdapterKind::kMixLora) layer.ffn_router = arena.take(DType::kF32, {3, kSmallModel.hidden});
    if (kind == AdapterKind::kLora) part.magnitude = arena.take(DType::kF32, {kSmallModel.outputs(p)});
  }
  return adapter;
}

void expect_refused(AdapterKind kind, Projection p, Code code, const char* why,
                    const std::function<void(Adapter&, ProjectionAdapter&)>& change) {
  Adapter adapter = make(kind);
  ASSERT_TRUE(check(adapter, kSmallModel).ok()) << check(adapter, kSmallModel).message();
  change(adapter, adapter.layers[1][p]);
  const Status status = check(adapter, kSmallModel);
  EXPECT_EQ(status.code(), code) << why;
  EXPECT_NE(status.message().find(why), std::string::npos) << status.message();
}

TEST(Adapter, HasTheShapesOfItsModel) {
  const auto refuse = [](const char* why, const std::function<void(Adapter&, ProjectionAdapter&)>& change,
                         Code code = Code::kCorruptFile) {
    expect_refused(AdapterKind::kDynMole, Projection::kQ, code, why, change);
  };
  refuse("has 1 layers, the model 2", [](Adapter& a, ProjectionAdapter&) { a.layers.pop_back(); });
  refuse("layer 1 q_proj: A is [3, 2, 5], the model needs [3, 2, 6]",
         [](Adapter&, ProjectionAdapter& p) { p.a = p.a.narrow(2, 0, 5); });
  refuse("layer 1 q_proj: A is [3, 2, 6]", [](Adapter&, ProjectionAdapter& p) { p.a.stride[2] = 2; });
  refuse("layer 1 q_proj: B is missing", [](Adapter&, ProjectionAdapter& p) { p.b = {}; });
  refuse("A is bf16 and B f16", [](Adapter&, ProjectionAdapter& p) { p.b.dtype = DType::kF16; });
  refuse("A is i32", [](Adapter&, ProjectionAdapter& p) { p.a.dtype = p.b.dtype = DType::kI32; });
  refuse("scale is not finite",
         [](Adapter&, ProjectionAdapter& p) { p.scale = std::numeric_limits<float>::infinity(); });
  refuse("router is [2, 6], the model needs [3, 6]",
         [](Adapter&, ProjectionAdapter& p) { p.router = p.router.slice(0, 2); });
  refuse("router is bf16", [](Adapter&, ProjectionAdapter& p) { p.router.dtype = DType::kBf16; });
  refuse("3 experts and no router", [](Adapter&, ProjectionAdapter& p) { p.router = {}; });
  refuse("router settings", [](Adapter& a, ProjectionAdapter&) { a.router.keep_top_k = 0; });
  refuse("router settings",
         [](Adapter& a, ProjectionAdapter&) { a.router.top_p = std::numeric_limits<double>::quiet_NaN(); });
  refuse(
      "65 experts", [](Adapter&, ProjectionAdapter& p) { p.experts = 65; }, Code::kUnsupported);
  refuse(
      "rank 0", [](Adapter&, ProjectionAdapter& p) { p.rank = 0; }, Code::kUnsupported);
  refuse(
      "rank 1025", [](Adapter&, ProjectionAdapter& p) { p.rank = 1025; }, Code::kUnsupported);
}

TEST(Adapter, HasTheRouterOfItsKind) {
  const Tensor other = Tensor::dense(reinterpret_cast<void*>(64), DType::kF32, {3, 6});
  expect_refused(AdapterKind::kMixLora, Projection::kUp, Code::kCorruptFile, "the FFN's router is missing",
                 [](Adapter& a, ProjectionAdapter&) { a.layers[1].ffn_router = {}; });
  expect_refused(AdapterKind::kMixLora, Projection::kUp, Code::kCorruptFile, "a router of its own",
                 [&](Adapter&, ProjectionAdapter& p) { p.router = other; });
  expect_refused(AdapterKind::kLora, Projection::kO, Code::kCorruptFile,
                 "magnitude is [4], the model needs [6]",
                 [](Adapter&, ProjectionAdapter& p) { p.magnitude = p.magnitude.slice(0, 4); });
  expect_refused(AdapterKind::kDynMole, Projection::kQ, Code::kUnsupported,
                 "DoRA magnitude and several experts",
                 [&](Adapter&, ProjectionAdapter& p) { p.magnitude = other; });
}

TEST(Adapter, KnowsTheSidesOfEveryProjection) {
  const struct {
    Projection projection;
    int64_t inputs, outputs;
  } sides[] = {{Projection::kQ, 6, 8},    {Projection::kK, 6, 4},     {Projection::kV, 6, 4},
               {Projection::kO, 8, 6},    {Projection::kGate, 6, 10}, {Projection::kUp, 6, 10},
               {Projection::kDown, 10, 6}};
  for (const auto& side : sides) {
    EXPECT_EQ(kSmallModel.inputs(side.projection), side.inputs) << name_of(side.projection);
    EXPECT_EQ(kSmallModel.outputs(side.projection), side.outputs) << name_of(side.projection);
  }
}

}  // namespace
}  // namespace longhaul
