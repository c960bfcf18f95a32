// check(): what it lets through and how it names what it does not.
#include <gtest/gtest.h>

#include <string>

#include "core/ops.h"

namespace longhaul {
namespace {

// Checks never look behind these pointers.
alignas(64) char g_memory[64];
void* const kData = g_memory;
const auto* const kViews = reinterpret_cast<const CacheView*>(g_memory);

Tensor f32(std::initializer_list<int64_t> shape) {
  return Tensor::dense(kData, DType::kF32, shape);
}
Tensor i32(std::initializer_list<int64_t> shape) {
  return Tensor::dense(kData, DType::kI32, shape);
}
Tensor of(DType type, std::initializer_list<int64_t> shape) {
  return Tensor::dense(kData, type, shape);
}

PageArrays pages(int64_t dim) {
  return {f32({4, kPageRows, dim}), f32({4, kPageRows, dim}), i32({4, kPageRows})};
}

// A weight whose storage is never freed: it belongs to a backend that counts nothing.
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

  Ops ops_{};

 protected:
  Result<void*> allocate_bytes(size_t) override { return kData; }
  void free_bytes(void*, size_t) override {}
};

class NoStream : public Stream {
 public:
  Status synchronize() override { return Status(); }
};

class CheckTest : public ::testing::Test {
 protected:
  Weight weight(int64_t rows, int64_t cols, DType type = DType::kF32) {
    return {rows, cols, type, Buffer(&backend_, kData, 0, MemoryUse::kWeights)};
  }

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

  NoBackend backend_;
  NoStream stream_;
};

TEST_F(CheckTest, Embed) {
  const Weight table = weight(10, 8, DType::kBf16);
  EmbedArgs a{i32({3}), &table, f32({3, 8})};
  accepts(a);
  a.out = f32({3, 7});
  rejects(a, "embed: out is [3, 7], needs [3, 8]");
  a.out = of(DType::kBf16, {3, 8});
  rejects(a, "embed: out is bf16, needs f32");
  a.table = nullptr;
  rejects(a, "embed: table is missing");
  const Weight integers = weight(10, 8, DType::kI32);
  a.table = &integers;
  rejects(a, "embed: table is i32, needs f32 or bf16 or f16");
}

TEST_F(CheckTest, RmsNorm) {
  RmsNormArgs a{f32({2, 64}), {}, f32({64}), of(DType::kBf16, {2, 64}), 1e-5f};
  accepts(a);
  a.delta = of(DType::kBf16, {2, 64});
  accepts(a);
  a.weight = f32({63});
  rejects(a, "rms_norm: weight is [63], needs [64]");
  a.weight = Tensor();
  rejects(a, "rms_norm: weight is missing");
  RmsNormArgs heads{f32({2, 4, 16}), {}, f32({16}), f32({2, 4, 16}), 1e-5f};
  accepts(heads);
  heads.delta = f32({2, 16});
  rejects(heads, "rms_norm: delta needs an x of rank 2");
  heads.x = f32({16});
  rejects(heads, "rms_norm: x must have rank 2 or 3, got 1");
}

TEST_F(CheckTest, Gemm) {
  const Weight w = weight(6, 8);
  GemmArgs a{f32({3, 8}), &w, {}, f32({3, 6}), false};
  accepts(a);
  a.x = f32({3, 20}).narrow(1, 4, 8);
  a.bias = f32({6});
  accepts(a);
  a.bias = f32({8});
  rejects(a, "gemm: bias is [8], needs [6]");
  a.bias = Tensor();
  a.x.stride[1] = 2;
  rejects(a, "gemm: x has an innermost stride of 2, needs 1");
  a.x = of(DType::kF16, {3, 8});
  rejects(a, "gemm: x is f16, needs f32 or bf16");
  a.x = Tensor::dense(nullptr, DType::kF32, {3, 8});
  rejects(a, "gemm: x has no data");
  a.x = Tensor::dense(nullptr, DType::kF32, {0, 8});
  a.out = Tensor::dense(nullptr, DType::kF32, {0, 6});
  accepts(a);
}

TEST_F(CheckTest, Elementwise) {
  accepts(SwigluArgs{f32({3, 10}), f32({3, 5})});
  rejects(SwigluArgs{f32({3, 11}), f32({3, 5})}, "swiglu: gate_up must have an even number of columns, got 11");
  rejects(SwigluArgs{f32({3, 10}), f32({3, 10})}, "swiglu: out is [3, 10], needs [3, 5]");

  accepts(RopeTableArgs{i32({3}), of(DType::kF64, {4}), f32({3, 4}), f32({3, 4})});
  rejects(RopeTableArgs{i32({3}), f32({4}), f32({3, 4}), f32({3, 4})},
          "rope_table: frequencies is f32, needs f64");

  accepts(RopeArgs{f32({3, 2, 8}), f32({3, 4}), f32({3, 4})});
  rejects(RopeArgs{f32({3, 2, 9}), f32({3, 4}), f32({3, 4})},
          "rope: head dim must be even and between 2 and 256, got 9");
  rejects(RopeArgs{f32({3, 2, 8}), f32({3, 4}), f32({3, 5}).narrow(1, 0, 4)}, "rope: sin must be dense");

  accepts(GatherRowsArgs{of(DType::kBf16, {9, 4}), i32({2}), of(DType::kBf16, {2, 4})});
  rejects(GatherRowsArgs{of(DType::kBf16, {9, 4}), i32({2}), f32({2, 4})},
          "gather_rows: out is f32, needs bf16");
}

TEST_F(CheckTest, AppendAndTruncate) {
  AppendArgs a{pages(16), kViews, 1, f32({3, 2, 16}), f32({3, 2, 16}), i32({3}), {}, {}};
  accepts(a);
  a.cos = f32({3, 8});
  rejects(a, "append: sin is missing");
  a.sin = f32({3, 8});
  accepts(a);
  a.v = f32({3, 1, 16});
  rejects(a, "append: v is [3, 1, 16], needs [3, 2, 16]");
  a.v = a.k;
  a.pages = pages(8);
  rejects(a, "append: pages.k is [4, 16, 8], needs [*, 16, 16]");
  a.pages = pages(16);
  a.pages.v = of(DType::kBf16, {4, kPageRows, 16});
  rejects(a, "append: pages.k and pages.v must have one dtype");
  a.views = nullptr;
  rejects(a, "append: views are missing");

  accepts(TruncateArgs{kViews, 1, 2, 0});
  rejects(TruncateArgs{kViews, 1, 2, -1}, "truncate: drop must not be negative, got -1");
  rejects(TruncateArgs{kViews, 1, 0, 1}, "truncate: kv_heads must be at least 1, got 0");
}

TEST_F(CheckTest, Attention) {
  AttentionArgs a{pages(16), kViews, 1, f32({3, 4, 16}), f32({3, 4, 16}), {}, 2, 0.25f, 64};
  accepts(a);
  a.lse = f32({3, 2});
  rejects(a, "attention: lse is [3, 2], needs [3, 4]");
  a.lse = Tensor();
  a.state = f32({3, 4});
  EXPECT_FALSE(check(a).ok());
  a.state = f32({3, 4, 2});
  accepts(a);
  a.role = RowRole::kDecode;
  rejects(a, "attention: state is given for rows of blocks only");
  a.role = RowRole::kBlock;
  a.state = Tensor();
  a.kv_heads = 3;
  rejects(a, "attention: kv_heads must divide the number of heads, got 4");
  a.kv_heads = 0;
  rejects(a, "attention: kv_heads must be at least 1, got 0");
  a.kv_heads = 2;
  a.scale = 0;
  rejects(a, "attention: scale must be positive");
  a.scale = 0.25f;
  a.max_length = 0;
  rejects(a, "attention: max_length must be at least 1, got 0");

  MergeStatesArgs m{f32({2, 3, 4, 16}), f32({2, 3, 4}), f32({3, 4, 16}), f32({3, 4})};
  accepts(m);
  m.parts_lse = f32({3, 3, 4});
  rejects(m, "merge_states: parts_lse is [3, 3, 4], needs [2, 3, 4]");
}

TEST_F(CheckTest, Eviction) {
  ScoreKeysArgs s;
  s.pages = pages(16);
  s.view = kViews;
  s.q = f32({5, 4, 16});
  s.scores = f32({2, 100});
  s.kv_heads = 2;
  s.scale = 0.25f;
  accepts(s);
  s.window = 5;
  s.pool_kernel = 7;
  accepts(s);
  s.window = 4;
  rejects(s, "score_keys: window must be 0 or the number of queries, got 4");
  s.window = 0;
  s.pool_kernel = 4;
  rejects(s, "score_keys: pool_kernel must be odd, got 4");
  s.pool_kernel = 1;
  s.scores = f32({1, 100});
  rejects(s, "score_keys: scores is [1, 100], needs [2, *]");

  KeyDiversityArgs d{pages(16), kViews, f32({2, 100}), 2, 0};
  accepts(d);
  d.ignore_last = -1;
  rejects(d, "key_diversity: ignore_last must not be negative, got -1");

  CombineScoresArgs both{.pages = pages(16), .view = kViews, .scores = f32({2, 100}), .kv_heads = 2};
  accepts(both);
  both.other = f32({2, 100});
  both.spans = i32({3, 2});
  accepts(both);
  both.other = f32({2, 99});
  rejects(both, "combine_scores: other is [2, 99], needs [2, 100]");
  both.other = Tensor();
  both.spans = i32({6});
  rejects(both, "combine_scores: spans is [6], needs [*, 2]");

  SelectArgs c;
  c.view = kViews;
  c.kv_heads = 2;
  c.budget = 8;
  c.kept = i32({2, 100});
  c.kept_count = i32({2});
  accepts(c);
  c.scores = f32({2, 100});
  accepts(c);
  c.budget = 0;
  rejects(c, "select: budget must be at least 1, got 0");
  c.budget = 8;
  c.kept_count = i32({3});
  rejects(c, "select: kept_count is [3], needs [2]");

  CompactArgs k{pages(16), kViews, i32({2, 100}), i32({2}), 2};
  accepts(k);
  k.kept = f32({2, 100});
  rejects(k, "compact: kept is f32, needs i32");

  PackPositionsArgs p{pages(16), kViews, 1, of(DType::kF64, {8}), 2, 7, 107, 100};
  accepts(p);
  p.end = 106;
  rejects(p, "pack_positions: end must not be below begin + max_length, got 106");
  p.end = 107;
  p.frequencies = of(DType::kF64, {16});
  rejects(p, "pack_positions: frequencies is [16], needs [8]");
  CopyRowsArgs copy{pages(16), kViews, kViews + 1, i32({2, 100}), i32({2}), 2};
  accepts(copy);
  copy.target = copy.source;
  rejects(copy, "copy_rows: source and target are the same");
  copy = {pages(16), kViews, kViews + 1, i32({2, 100}), i32({3}), 2};
  rejects(copy, "copy_rows: kept_count is [3], needs [2]");
  RankRowsArgs rank{kViews, f32({2, 100}), i32({2, 90}), i32({2}), 2};
  rank.best = f32({2, 80});
  accepts(rank);
  rank.best = f32({3, 80});
  rejects(rank, "rank_rows: best is [3, 80], needs [2, *]");
}

TEST_F(CheckTest, Sample) {
  SampleArgs a;
  a.logits = f32({3, 100});
  a.params = reinterpret_cast<const SampleParams*>(g_memory);
  a.ids = i32({3});
  accepts(a);
  a.seen = of(DType::kU8, {3, 12});
  rejects(a, "sample: seen is [3, 12], needs [3, 13]");
  a.seen = of(DType::kU8, {3, 13});
  a.probabilities = f32({3, 100});
  accepts(a);
  a.params = nullptr;
  rejects(a, "sample: params are missing");
}

TEST_F(CheckTest, RunNamesTheMissingOperation) {
  const SwigluArgs good{f32({3, 10}), f32({3, 5})};
  const Status missing = run(backend_, stream_, good);
  EXPECT_EQ(missing.code(), Code::kUnsupported);
  EXPECT_EQ(missing.message(), "device 'none' has no operation 'swiglu'");
  // What is wrong in the arguments comes first.
  EXPECT_EQ(run(backend_, stream_, SwigluArgs{f32({3, 11}), f32({3, 5})}).code(), Code::kInvalidArgument);
}

TEST_F(CheckTest, RunRefusesASmallWorkspace) {
  const Weight w = weight(6, 8);
  const GemmArgs a{f32({3, 8}), &w, {}, f32({3, 6}), false};
  backend_.ops_.gemm = [](Stream&, const GemmArgs&, Workspace) { return Status(); };
  backend_.ops_.gemm_workspace = [](const GemmArgs&) { return size_t{64}; };
  EXPECT_TRUE(run(backend_, stream_, a, {kData, 64}).ok());
  const Status small = run(backend_, stream_, a, {kData, 63});
  EXPECT_EQ(small.code(), Code::kInvalidArgument);
  EXPECT_EQ(small.message(), "gemm: workspace has 63 bytes, needs 64");
}

}  // namespace
}  // namespace longhaul
