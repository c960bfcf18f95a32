#include "core/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace longhaul {
namespace {

int32_t at(const Tensor& t, std::initializer_list<int64_t> index) {
  int64_t offset = 0;
  int dim = 0;
  for (const int64_t i : index) offset += i * t.stride[dim++];
  return t.as<int32_t>()[offset];
}

TEST(Tensor, DenseIsRowMajor) {
  std::vector<int32_t> data(24);
  std::iota(data.begin(), data.end(), 0);
  const Tensor t = Tensor::dense(data.data(), DType::kI32, {2, 3, 4});
  EXPECT_EQ(t.rank, 3);
  EXPECT_EQ(t.elements(), 24);
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_TRUE(t.is_dense());
  EXPECT_TRUE(static_cast<bool>(t));
  EXPECT_EQ(at(t, {1, 2, 3}), 23);
  EXPECT_EQ(at(t, {0, 2, 1}), 9);
}

TEST(Tensor, EmptyAndScalar) {
  EXPECT_FALSE(static_cast<bool>(Tensor()));
  int32_t value = 7;
  EXPECT_EQ(Tensor::dense(&value, DType::kI32, {}).elements(), 1);
  EXPECT_EQ(Tensor::dense(&value, DType::kI32, {0, 5}).elements(), 0);
}

TEST(Tensor, SlicesAndNarrowsShareTheMemory) {
  std::vector<int32_t> data(24);
  std::iota(data.begin(), data.end(), 0);
  const Tensor t = Tensor::dense(data.data(), DType::kI32, {4, 6});
  const Tensor rows = t.slice(1, 2);
  EXPECT_EQ(rows.shape[0], 2);
  EXPECT_TRUE(rows.is_dense());
  EXPECT_EQ(at(rows, {1, 5}), 17);
  const Tensor columns = t.narrow(1, 2, 3);
  EXPECT_EQ(columns.elements(), 12);
  EXPECT_FALSE(columns.is_dense());
  EXPECT_EQ(at(columns, {0, 0}), 2);
  EXPECT_EQ(at(columns, {3, 2}), 22);
  // One row has no stride that could matter.
  EXPECT_TRUE(columns.slice(0, 1).is_dense());
}

TEST(Tensor, SplitsTheInnermostDimension) {
  std::vector<int32_t> data(24);
  std::iota(data.begin(), data.end(), 0);
  const Tensor t = Tensor::dense(data.data(), DType::kI32, {2, 12});
  const Tensor heads = t.split_last(4);
  EXPECT_EQ(heads.rank, 3);
  EXPECT_EQ(heads.shape[1], 3);
  EXPECT_EQ(heads.shape[2], 4);
  EXPECT_TRUE(heads.is_dense());
  EXPECT_EQ(at(heads, {1, 2, 3}), 23);
  const Tensor part = t.narrow(1, 4, 8).split_last(4);
  EXPECT_FALSE(part.is_dense());
  EXPECT_EQ(at(part, {1, 0, 1}), 17);
}

}  // namespace
}  // namespace longhaul
