// check() of the ops of routers and LoRA experts.
#include <gtest/gtest.h>

#include <string>

#include "core/ops.h"

namespace longhaul {
namespace {

// Checks never look behind these pointers.
alignas(64) char g_memory[64];

Tensor of(DType type, std::initializer_list<int64_t> shape) {
  return Tensor::dense(g_memory, type, shape);
}
Tensor f32(std::initializer_list<int64_t> shape) {
  return of(DType::kF32, shape);
}

// Frees nothing: its weights lie in g_memory.
class NoBackend : public Backend {
 public:
  std::string name() const override { return "none"; }
  std::string description() const override { return ""; }
  const Ops& ops() const override { return ops_; }
  DType activation_dtype(DType) const override { return DType::kF32; }
  bool is_host_memory() const override { return true; }
  Result<std::unique_ptr<Stream>> make_stream() override { return unsupported("no streams"); }
  Status upload(Stream&, void*, const void*, size_t) override { return unsupported("no memory"); }
  Status download(Stream&, void*, const void*, size_t) override { return unsupported("no memory"); }
  Result<Weight> pack(std::span<const Tensor>) override { return unsupported("no weights"); }

 protected:
  Result<void*> allocate_bytes(size_t) override { return unsupported("no memory"); }
  void free_bytes(void*, size_t) override {}

 private:
  Ops ops_{};
};

template <class Args>
void accepts(const Args& args) {
  const Status status = check(args);
  EXPECT_TRUE(status.ok()) << status.message();
}

template <class Args>
void rejects(const Args& args, const std::string& message) {
  const Status status = check(args);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message(), message);
}

TEST(CheckExpertsTest, Route) {
  RouteArgs a{.x = f32({3, 16}), .gate = f32({6, 16}), .router = {}, .weights = f32({3, 6})};
  accepts(a);
  a.gate = of(DType::kBf16, {6, 16});
  rejects(a, "route: gate is bf16, needs f32");
  a.gate = f32({65, 16});
  rejects(a, "route: a router has between 1 and 64 experts, got 65");
  a.gate = f32({6, 16});
  a.mask = f32({3, 6});
  rejects(a, "route: mask is f32, needs u8");
  a.mask = of(DType::kU8, {3, 6});
  a.router.keep_top_k = 0;
  rejects(a, "route: router.keep_top_k must be at least 1, got 0");
  a.router = {};
  a.router.entropy_type = EntropyType::kRenyi;
  a.router.entropy_mode = EntropyMode::kStable;
  rejects(a, "route: router.entropy_mode stable is for Tsallis entropy");
  a.router = {};
  a.router.entropy_index = 0;
  rejects(a, "route: router.entropy_index must be positive");
}

TEST(CheckExpertsTest, ShrinkAndExpand) {
  NoBackend backend;
  const Weight matrix_a{12, 16, DType::kF32, Buffer(&backend, g_memory, 0, MemoryUse::kWeights)};
  const Weight matrix_b{20, 12, DType::kF32, Buffer(&backend, g_memory, 0, MemoryUse::kWeights)};
  const Weight other{12, 16, DType::kBf16, Buffer(&backend, g_memory, 0, MemoryUse::kWeights)};
  const ExpertPart part{.experts = 6,
                        .rank = 2,
                        .scale = 1,
                        .a = &matrix_a,
                        .b = &matrix_b,
                        .weighted = true,
                        .gate = f32({6, 16})};
  ExpertSegment segments[2] = {{0, 2, {part}}, {2, 1, {part}}};
  ExpertShrinkArgs a{.x = f32({4, 16}), .segments = segments, .segment_count = 2};
  a.weights = f32({4, 1, 6});
  a.middle = f32({4, 1, 12});
  accepts(a);
  ExpertExpandArgs b{.middle = a.middle, .weights = a.weights, .segments = segments, .segment_count = 2};
  b.out[0] = f32({4, 20});
  accepts(b);

  segments[1].row_begin = 1;
  rejects(a, "expert_shrink: segments must be ascending and disjoint, row_begin, got 1");
  segments[1].row_begin = 3;
  segments[1].row_count = 2;
  rejects(b, "expert_expand: a segment has more rows than there are, row_count, got 2");
  segments[1] = {2, 1, {part}};
  segments[1].parts[0].rank = 3;
  rejects(a, "expert_shrink: a must have experts * rank rows, got 12");
  rejects(b, "expert_expand: b must have experts * rank columns, got 12");
  segments[1].parts[0] = part;
  a.middle = f32({4, 1, 11});
  rejects(a, "expert_shrink: middle is narrower than experts * rank, got 11");
  b.weights = Tensor();
  rejects(b, "expert_expand: weights are missing");
  b.weights = a.weights;
  b.out[0] = f32({4, 19});
  rejects(b, "expert_expand: out is [4, 19], needs [4, 20]");
  b.out[0] = f32({4, 20});
  segments[1].parts[0].offset = f32({20});
  rejects(b, "expert_expand: an offset needs a factor");
  segments[1].parts[0].offset = Tensor();

  // The workings of a segment are interleaved once: its parts must be of one dtype.
  ExpertSegment mixed{0, 2, {part, part}};
  mixed.parts[1].a = &other;
  ExpertShrinkArgs two{.x = f32({4, 16}), .segments = &mixed, .segment_count = 1, .parts = 2};
  two.weights = f32({4, 2, 6});
  two.middle = f32({4, 2, 12});
  rejects(two, "expert_shrink: the parts of a segment must have matrices of one dtype");
}

TEST(CheckExpertsTest, AddWeightedRows) {
  AddWeightedRowsArgs a{.x = f32({3, 8}), .weights = f32({3, 1}), .out = of(DType::kBf16, {3, 8})};
  accepts(a);
  a.weights = f32({3, 2});
  rejects(a, "add_weighted_rows: weights is [3, 2], needs [3, 1]");
}

TEST(CheckExpertsTest, Gradients) {
  RouterLossArgs loss{.logits = f32({5, 6}), .router = {}, .usage = f32({2, 6}), .summary = f32({4})};
  accepts(loss);
  loss.attended = f32({4});
  rejects(loss, "router_loss: attended is [4], needs [5]");
  RouteBackwardArgs back{.logits = f32({5, 6}), .router = {}, .usage = f32({2, 6}), .summary = f32({4})};
  back.dlogits = f32({5, 6});
  rejects(back, "route_backward: loss_rows must be at least the rows of logits, got 0");
  back.loss_rows = 5;
  accepts(back);

  ExpertBackwardArgs experts{
      f32({5, 16}), f32({5, 20}),    f32({6, 2, 16}), f32({6, 20, 2}), f32({5, 6}), f32({5, 6, 2}), 1,
      f32({5, 16}), f32({6, 2, 16}), f32({6, 20, 2}), f32({5, 6})};
  accepts(experts);
  experts.db = f32({6, 2, 20});
  rejects(experts, "expert_backward: db is [6, 2, 20], needs [6, 20, 2]");

  LinearBackwardArgs linear{.x = f32({5, 16}), .dy = f32({5, 6})};
  rejects(linear, "linear_backward: dx and dweight are missing");
  linear.dx = f32({5, 16});
  rejects(linear, "linear_backward: weight is missing");
  linear.weight = f32({6, 16});
  linear.dweight = f32({6, 16});
  accepts(linear);
}

}  // namespace
}  // namespace longhaul
