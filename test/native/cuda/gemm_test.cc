// Each kernel of a product by itself: every tile at every edge, and the same bits whichever tile, alignment or
// batch.
#include <gtest/gtest.h>

#include "cuda/gemm_case.h"

namespace longhaul::testing {
namespace {

using cuda::BlockTile;
using cuda::DecodeShape;
using cuda::GemmProblem;

constexpr GemmTypes kBf16Types{DType::kBf16, DType::kBf16, DType::kF32};
// Two tiles and an edge each way for every tile there is, and more of K than any ring has stages; odd
// everywhere.
constexpr GemmShape kEdges{131, 259, 421};
constexpr GemmShape kWhole{128, 256, 448};
constexpr GemmShape kTiny{1, 1, 1};

auto mma(BlockTile tile) {
  return [tile](const GemmProblem& p) { return launch_gemm_mma(p, tile, nullptr); };
}
auto simt(BlockTile tile) {
  return [tile](const GemmProblem& p) { return launch_gemm_simt(p, tile, nullptr); };
}
auto decode_mma(DecodeShape shape) {
  return [shape](const GemmProblem& p) { return launch_gemm_decode_mma(p, shape, nullptr); };
}
auto decode_simt() {
  return [](const GemmProblem& p) { return launch_gemm_decode_simt(p, nullptr); };
}
// Two blocks for four tiles and more: every block takes several.
auto sm90(BlockTile tile) {
  return [tile](const GemmProblem& p) { return launch_gemm_sm90(p, tile, 2, nullptr); };
}

bool has_wgmma() {
  int major = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  return major == 9;
}

std::vector<GemmTypes> f32_types() {
  std::vector<GemmTypes> types;
  for (DType weight : {DType::kF32, DType::kBf16, DType::kF16})
    types.push_back({DType::kF32, weight, DType::kF32});
  types.push_back({DType::kBf16, DType::kF32, DType::kBf16});
  types.push_back({DType::kBf16, DType::kF16, DType::kF32});
  return types;
}

// Outputs of every alignment and dtype, with all that may happen to a sum.
template <class Kernel>
void expect_right_ends(GemmShape shape, GemmTypes types, Kernel kernel) {
  for (DType out : {DType::kF32, DType::kBf16}) {
    for (int gap : {0, 1, 8}) {
      for (int variant = 0; variant < 4; ++variant) {
        types.out = out;
        GemmCase c(shape, types, 17);
        c.out_gap = gap;
        c.bias = variant % 2 == 1;
        c.accumulate = variant >= 2;
        SCOPED_TRACE(::testing::Message() << name_of(out) << " gap " << gap << " variant " << variant);
        c.expect_right(c.run(kernel));
      }
    }
  }
}

TEST(GemmMma, IsRightInEveryTileWithTheSameBits) {
  for (GemmShape shape : {kEdges, kWhole, kTiny}) {
    GemmCase c(shape, kBf16Types, 1);
    const std::vector<float> wide = c.run(mma(BlockTile::kWide));
    c.expect_right(wide);
    EXPECT_EQ(c.run(mma(BlockTile::kNarrow)), wide);
    c.x_offset = 1;
    EXPECT_EQ(c.run(mma(BlockTile::kWide)), wide);
    EXPECT_EQ(c.run(mma(BlockTile::kNarrow)), wide);
  }
}

TEST(GemmMma, EndsRightly) {
  expect_right_ends({9, 66, 40}, kBf16Types, mma(BlockTile::kNarrow));
  expect_right_ends({9, 64, 24}, kBf16Types, mma(BlockTile::kWide));
}

TEST(GemmMma, RowsDoNotSeeEachOther) {
  GemmCase c({70, 40, 100}, kBf16Types, 2);
  const std::vector<float> all = c.run(mma(BlockTile::kNarrow));
  c.first_row = 67;
  c.rows = 2;
  EXPECT_EQ(c.run(mma(BlockTile::kNarrow)), std::vector<float>(all.begin() + 67 * 40, all.begin() + 69 * 40));
}

TEST(GemmSm90, IsRightInEveryTileWithTheSameBits) {
  if (!has_wgmma()) {
    GTEST_LOG_(INFO) << "this GPU has no wgmma: nothing to test";
    return;
  }
  for (GemmShape shape : {kEdges, kWhole, kTiny}) {
    const GemmCase c(shape, kBf16Types, 3);
    const std::vector<float> wide = c.run(sm90(BlockTile::kWide));
    c.expect_right(wide);
    EXPECT_EQ(c.run(sm90(BlockTile::kNarrow)), wide);
  }
  expect_right_ends({9, 96, 40}, kBf16Types, sm90(BlockTile::kNarrow));
  GemmCase c({131, 24, 100}, kBf16Types, 2);
  const std::vector<float> all = c.run(sm90(BlockTile::kNarrow));
  c.first_row = 130;
  c.rows = 1;
  EXPECT_EQ(c.run(sm90(BlockTile::kNarrow)), std::vector<float>(all.begin() + 130 * 24, all.end()));
}

TEST(GemmSimt, IsRightInEveryTileWithTheSameBits) {
  for (GemmTypes types : f32_types()) {
    SCOPED_TRACE(::testing::Message() << name_of(types.x) << " with " << name_of(types.weight));
    GemmCase c({67, 133, 43}, types, 4);
    const std::vector<float> wide = c.run(simt(BlockTile::kWide));
    c.expect_right(wide);
    EXPECT_EQ(c.run(simt(BlockTile::kNarrow)), wide);
    c.x_offset = 1;
    EXPECT_EQ(c.run(simt(BlockTile::kWide)), wide);
    EXPECT_EQ(c.run(simt(BlockTile::kNarrow)), wide);
    expect_right_ends({3, 18, 16}, types, simt(BlockTile::kNarrow));
  }
}

// Shapes that share a number of splits add in one order.
TEST(GemmDecodeMma, IsRightInEveryShapeWithTheSameBits) {
  for (GemmShape shape : {GemmShape{35, 43, 1330}, GemmShape{8, 32, 1024}, GemmShape{9, 1, 8}, kTiny}) {
    GemmCase c(shape, kBf16Types, 5);
    const std::vector<float> eight = c.run(decode_mma({8, 1})), sixteen = c.run(decode_mma({16, 1}));
    c.expect_right(eight);
    c.expect_right(sixteen);
    EXPECT_EQ(c.run(decode_mma({8, 2})), eight);
    c.x_offset = 1;
    EXPECT_EQ(c.run(decode_mma({8, 1})), eight);
    EXPECT_EQ(c.run(decode_mma({8, 2})), eight);
    EXPECT_EQ(c.run(decode_mma({16, 1})), sixteen);
  }
  expect_right_ends({3, 18, 40}, kBf16Types, decode_mma({8, 1}));
}

TEST(GemmDecodeMma, RowsDoNotSeeEachOther) {
  GemmCase c({41, 24, 1100}, kBf16Types, 6);
  for (DecodeShape shape : {DecodeShape{8, 1}, DecodeShape{8, 2}, DecodeShape{16, 1}}) {
    c.first_row = 0;
    c.rows = 41;
    const std::vector<float> all = c.run(decode_mma(shape));
    for (int rows : {1, 7, 8, 9, 32, 33}) {
      c.first_row = 41 - rows;
      c.rows = rows;
      EXPECT_EQ(c.run(decode_mma(shape)), std::vector<float>(all.begin() + c.first_row * 24, all.end()))
          << rows << " rows";
    }
  }
}

TEST(GemmDecodeSimt, IsRightForAnyRowsWithTheSameBits) {
  for (GemmTypes types : f32_types()) {
    SCOPED_TRACE(::testing::Message() << name_of(types.x) << " with " << name_of(types.weight));
    GemmCase c({6, 19, 1330}, types, 7);
    const std::vector<float> all = c.run(decode_simt());
    c.expect_right(all);
    for (int rows : {1, 3, 5}) {
      c.first_row = 6 - rows;
      c.rows = rows;
      c.x_offset = rows % 2;
      EXPECT_EQ(c.run(decode_simt()), std::vector<float>(all.begin() + c.first_row * 19, all.end()))
          << rows << " rows";
    }
    expect_right_ends({2, 3, 16}, types, decode_simt());
  }
}

}  // namespace
}  // namespace longhaul::testing
