// What the CPU's attention promises beyond being right: bits that do not depend on how the work was cut.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "cpu/cpu_test_support.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

struct Shape {
  DType q;
  DType kv;
  int32_t kv_heads;
  int32_t group;
  int32_t dim;
  RowRole role = RowRole::kBlock;
};

// One sequence with room for `capacity` rows, its pages handed out backwards.
class Cache {
 public:
  Cache(const Shape& shape, int32_t capacity)
      : shape_(shape),
        max_pages_((capacity + kPageRows - 1) / kPageRows),
        pages_(max_pages_ * shape.kv_heads),
        k_(shape.kv, {pages_, kPageRows, shape.dim}),
        v_(shape.kv, {pages_, kPageRows, shape.dim}),
        positions_(pages_ * kPageRows),
        table_(pages_),
        length_(shape.kv_heads),
        stack_(pages_),
        count_{pages_, pages_} {
    for (int32_t i = 0; i < pages_; ++i) stack_[i] = i;
  }

  PageArrays arrays() {
    return {k_.tensor(), v_.tensor(), Tensor::dense(positions_.data(), DType::kI32, {pages_, kPageRows})};
  }
  CacheView view(int32_t rows) {
    return {table_.data(), length_.data(), stack_.data(), count_, max_pages_, 0, rows};
  }

  // Appends the rows and attends with their queries.
  Values step(CpuStream& stream, const Tensor& q, const Tensor& k, const Tensor& v, Values* lse = nullptr) {
    const auto rows = static_cast<int32_t>(q.shape[0]);
    const CacheView now = view(rows);
    std::vector<int32_t> positions(rows);
    const AppendArgs append_args{.pages = arrays(),
                                 .views = &now,
                                 .sequences = 1,
                                 .k = k,
                                 .v = v,
                                 .positions = Tensor::dense(positions.data(), DType::kI32, {rows})};
    EXPECT_TRUE(check(append_args).ok());
    EXPECT_TRUE(append(stream, append_args).ok());
    Values out(q.dtype, {rows, q.shape[1], q.shape[2]});
    const AttentionArgs args{.pages = arrays(),
                             .views = &now,
                             .sequences = 1,
                             .q = q,
                             .out = out.tensor(),
                             .lse = lse != nullptr ? lse->tensor() : Tensor(),
                             .kv_heads = shape_.kv_heads,
                             .scale = 0.2f,
                             .max_length = max_pages_ * kPageRows,
                             .role = shape_.role};
    EXPECT_TRUE(check(args).ok());
    std::vector<char> workspace(attention_workspace(args) + 64);
    char* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64) % 64;
    EXPECT_TRUE(attention(stream, args, {aligned, workspace.size() - 64}).ok());
    EXPECT_TRUE(out.intact());
    return out;
  }

 private:
  Shape shape_;
  int32_t max_pages_;
  int32_t pages_;
  Values k_, v_;
  std::vector<int32_t> positions_, table_, length_, stack_;
  int32_t count_[2];
};

using AttentionBits = EveryIsa;
INSTANTIATE_TEST_SUITE_P(Isa, AttentionBits, ::testing::ValuesIn(every_isa()), isa_name);

// Feeds the same rows in pieces of `piece` and compares every output with that of one call. 300 rows and more
// take the path of whole tiles, single rows the one of chunks.
void expect_pieces_equal(CpuStream& stream, const Shape& shape, int32_t before, int32_t rows, int32_t piece) {
  SCOPED_TRACE(std::string(name_of(shape.q)) + " " + name_of(shape.kv) + " dim " + std::to_string(shape.dim) +
               " group " + std::to_string(shape.group) + " piece " + std::to_string(piece));
  Numbers numbers(7);
  const int64_t heads = int64_t{shape.kv_heads} * shape.group;
  const int32_t all = before + rows;
  Values q(shape.q, {all, heads, shape.dim});
  Values k(shape.q, {all, shape.kv_heads, shape.dim});
  Values v(shape.q, {all, shape.kv_heads, shape.dim});
  q.fill(numbers);
  k.fill(numbers);
  v.fill(numbers);
  const auto step = [&](Cache& cache, int32_t begin, int32_t count, Values* lse) {
    return cache.step(stream, q.tensor().slice(begin, count), k.tensor().slice(begin, count),
                      v.tensor().slice(begin, count), lse);
  };

  Cache whole(shape, all);
  if (before > 0) step(whole, 0, before, nullptr);
  Values whole_lse(DType::kF32, {rows, heads});
  const Values expected = step(whole, before, rows, &whole_lse);

  Cache cut(shape, all);
  if (before > 0) step(cut, 0, before, nullptr);
  const int64_t width = heads * shape.dim;
  for (int32_t begin = 0; begin < rows; begin += piece) {
    const int32_t count = std::min(piece, rows - begin);
    Values lse(DType::kF32, {count, heads});
    const Values actual = step(cut, before + begin, count, &lse);
    for (int64_t i = 0; i < count * width; ++i) ASSERT_EQ(actual.get(i), expected.get(begin * width + i)) << i;
    for (int64_t i = 0; i < count * heads; ++i) ASSERT_EQ(lse.get(i), whole_lse.get(begin * heads + i)) << i;
  }
}

TEST_P(AttentionBits, DoNotDependOnTheCutOfABlock) {
  for (const Shape& shape :
       {Shape{DType::kF32, DType::kF32, 2, 3, 24}, Shape{DType::kBf16, DType::kBf16, 1, 4, 64},
        Shape{DType::kF32, DType::kF16, 3, 1, 8}, Shape{DType::kBf16, DType::kBf16, 1, 16, 80},
        Shape{DType::kBf16, DType::kF32, 2, 2, 34}, Shape{DType::kBf16, DType::kBf16, 1, 7, 128}}) {
    expect_pieces_equal(*stream_, shape, 490, 40, 1);
    expect_pieces_equal(*stream_, shape, 0, 300, 17);
  }
}

TEST_P(AttentionBits, DoNotDependOnTheRowsDecodedTogether) {
  for (const Shape& shape : {Shape{DType::kBf16, DType::kBf16, 1, 4, 64, RowRole::kDecode},
                             Shape{DType::kBf16, DType::kBf16, 2, 1, 16, RowRole::kDecode},
                             Shape{DType::kBf16, DType::kBf16, 1, 7, 128, RowRole::kDecode},
                             Shape{DType::kBf16, DType::kBf16, 1, 3, 80, RowRole::kDecode},
                             Shape{DType::kBf16, DType::kBf16, 1, 2, 24, RowRole::kDecode},
                             Shape{DType::kF32, DType::kF16, 1, 4, 64, RowRole::kDecode}}) {
    expect_pieces_equal(*stream_, shape, 490, 40, 1);
    expect_pieces_equal(*stream_, shape, 0, 300, 17);
  }
}

TEST_P(AttentionBits, SplitAndWholeTilesAgreeBeyondOneWave) {
  // 17 chunks of keys: more than are in flight at once.
  for (RowRole role : {RowRole::kBlock, RowRole::kDecode}) {
    expect_pieces_equal(*stream_, {DType::kBf16, DType::kBf16, 1, 2, 16, role}, 4090, 300, 60);
  }
}

// A row that comes later must not matter even if it holds what no finite weight makes harmless.
void expect_no_leak(CpuStream& stream, DType type, RowRole role, int32_t bad) {
  SCOPED_TRACE(std::string(name_of(type)) + " row " + std::to_string(bad));
  constexpr int32_t kRows = 24;
  const Shape shape{type, type, 1, 2, 16, role};
  Numbers numbers(3);
  Values q(type, {kRows, 2, 16}), k(type, {kRows, 1, 16}), v(type, {kRows, 1, 16});
  q.fill(numbers);
  k.fill(numbers);
  v.fill(numbers);
  Cache clean(shape, kRows);
  const Values expected = clean.step(stream, q.tensor(), k.tensor(), v.tensor());
  for (int i = 0; i < 16; ++i) {
    k.set(bad * 16 + i, std::numeric_limits<float>::quiet_NaN());
    v.set(bad * 16 + i, std::numeric_limits<float>::infinity());
  }
  Cache dirty(shape, kRows);
  const Values actual = dirty.step(stream, q.tensor(), k.tensor(), v.tensor());
  for (int64_t i = 0; i < bad * 32; ++i) ASSERT_EQ(actual.get(i), expected.get(i)) << i;
  for (int64_t i = bad * 32; i < kRows * 32; ++i) ASSERT_TRUE(std::isnan(actual.get(i))) << i;
}

TEST_P(AttentionBits, LaterValuesDoNotLeakIntoEarlierRows) {
  // Values may be multiplied in pairs: the first bad one is the first, or the second, of a pair.
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (RowRole role : {RowRole::kBlock, RowRole::kDecode}) {
      for (int32_t bad : {17, 18}) expect_no_leak(*stream_, type, role, bad);
    }
  }
}

// Memory is reserved for the largest call.
TEST(AttentionWorkspace, GrowsWithEveryExtent) {
  const auto bytes = [](int64_t rows, int64_t heads, int64_t dim) {
    return attention_workspace({.q = Tensor::dense(nullptr, DType::kF32, {rows, heads, dim}), .kv_heads = 1});
  };
  for (int64_t rows : {1, 7, 64, 500, 2000}) {
    for (int64_t heads : {1, 8, 32}) {
      for (int64_t dim : {8, 64, 128}) {
        EXPECT_LE(bytes(rows, heads, dim), bytes(rows + 1, heads, dim));
        EXPECT_LE(bytes(rows, heads, dim), bytes(rows, heads + 1, dim));
        EXPECT_LE(bytes(rows, heads, dim), bytes(rows, heads, dim + 2));
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::cpu
