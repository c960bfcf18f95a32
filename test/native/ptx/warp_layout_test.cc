// Where the elements of a warp's instructions lie: golden tables, spelled out from the PTX ISA ("Matrix
// Fragments for mma.m16n8k16 with floating point type", "Warp-level matrix load instruction: ldmatrix"). The
// emulator must agree, and a GPU says whether we read them rightly.
#include <cmath>
#include <limits>

#include "ptx/device_array.h"
#include "ptx/ptx_kernels.h"

namespace longhaul::testing {
namespace {

// Element `index` of a lane's fragment (two a register, the lower half first) is element (row, column) of the
// matrix.
struct Place {
  int lane, index, row, column;
};

constexpr Place kPlacesA[] = {{0, 0, 0, 0},   {0, 1, 0, 1},    {0, 2, 8, 0},    {0, 3, 8, 1},   {0, 4, 0, 8},
                              {0, 5, 0, 9},   {0, 6, 8, 8},    {0, 7, 8, 9},    {1, 0, 0, 2},   {1, 3, 8, 3},
                              {1, 4, 0, 10},  {3, 1, 0, 7},    {3, 5, 0, 15},   {4, 0, 1, 0},   {4, 2, 9, 0},
                              {13, 0, 3, 2},  {13, 7, 11, 11}, {31, 0, 7, 6},   {31, 1, 7, 7},  {31, 2, 15, 6},
                              {31, 3, 15, 7}, {31, 4, 7, 14},  {31, 6, 15, 14}, {31, 7, 15, 15}};
constexpr Place kPlacesB[] = {{0, 0, 0, 0},  {0, 1, 1, 0},   {0, 2, 8, 0},  {0, 3, 9, 0},   {1, 0, 2, 0},
                              {3, 1, 7, 0},  {3, 3, 15, 0},  {4, 0, 0, 1},  {13, 2, 10, 3}, {31, 0, 6, 7},
                              {31, 1, 7, 7}, {31, 2, 14, 7}, {31, 3, 15, 7}};
constexpr Place kPlacesD[] = {{0, 0, 0, 0},  {0, 1, 0, 1},  {0, 2, 8, 0},   {0, 3, 8, 1},  {1, 0, 0, 2},
                              {3, 1, 0, 7},  {4, 0, 1, 0},  {4, 2, 9, 0},   {13, 0, 3, 2}, {13, 3, 11, 3},
                              {31, 0, 7, 6}, {31, 1, 7, 7}, {31, 2, 15, 6}, {31, 3, 15, 7}};

class Mma : public ::testing::TestWithParam<Element> {
 protected:
  uint16_t number(int value) const { return small_number(GetParam() == Element::kF16, value); }

  // Registers in which one element is `value` and all others zero.
  std::vector<uint32_t> one_hot(int registers, const Place& place, int value) const {
    std::vector<uint32_t> all(static_cast<size_t>(32 * registers), 0);
    all[static_cast<size_t>(place.lane * registers + place.index / 2)] = uint32_t{number(value)}
                                                                         << 16 * (place.index % 2);
    return all;
  }

  std::vector<float> multiply(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                              const std::vector<float>& c) const {
    const DeviceArray<uint32_t> da(a), db(b);
    const DeviceArray<float> dc(c), dd(128);
    EXPECT_EQ(run_mma(GetParam(), da.data(), db.data(), dc.data(), dd.data()), cudaSuccess);
    return dd.read();
  }
};

// A one-hot A at (i, k) and a one-hot B at (k, j) meet in D at (i, j) and nowhere else.
TEST_P(Mma, PairsOfElementsMeetWhereTheyShould) {
  int met = 0;
  for (const Place& a : kPlacesA)
    for (const Place& b : kPlacesB) {
      const std::vector<float> d = multiply(one_hot(4, a, 3), one_hot(2, b, 5), std::vector<float>(128, 1.0f));
      const bool meet = a.column == b.row;
      int changed = 0;
      for (const float value : d) changed += value != 1.0f;
      EXPECT_EQ(changed, meet ? 1 : 0)
          << "A lane " << a.lane << " element " << a.index << ", B lane " << b.lane << " element " << b.index;
      for (const Place& at : kPlacesD) {
        const bool here = meet && at.row == a.row && at.column == b.column;
        EXPECT_EQ(d[static_cast<size_t>(at.lane * 4 + at.index)], here ? 16.0f : 1.0f);
        met += here;
      }
    }
  EXPECT_GT(met, 10) << "the tables hardly test D";
}

INSTANTIATE_TEST_SUITE_P(Types, Mma, ::testing::Values(Element::kBf16, Element::kF16),
                         [](const auto& info) { return info.param == Element::kBf16 ? "bf16" : "f16"; });

// Element (matrix, row, column) of 8x8 matrices of 16-bit numbers, as the shared memory of these tests holds
// it.
constexpr uint32_t at(int matrix, int row, int column) {
  return static_cast<uint32_t>(matrix * 64 + row * 8 + column);
}
constexpr uint32_t pair(uint32_t low, uint32_t high) {
  return low | high << 16;
}

std::vector<uint32_t> load_matrices(int matrices, bool transposed) {
  // Rows lie 48 bytes apart and matrices out of order: addresses decide, nothing else.
  constexpr int kPitch = 48;
  constexpr int kSlot[] = {2, 0, 3, 1};
  std::vector<uint8_t> shared(32 * kPitch, 0xee);
  std::vector<int> offsets(32, 0);
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int row = 0; row < 8; ++row) {
      const int offset = (kSlot[matrix] * 8 + row) * kPitch;
      offsets[static_cast<size_t>(matrix * 8 + row)] = offset;
      for (int column = 0; column < 8; ++column) {
        shared[static_cast<size_t>(offset + column * 2)] = static_cast<uint8_t>(at(matrix, row, column));
        shared[static_cast<size_t>(offset + column * 2 + 1)] = 0;
      }
    }
  const DeviceArray<uint8_t> ds(shared);
  const DeviceArray<int> doff(offsets);
  const DeviceArray<uint32_t> out(static_cast<size_t>(32 * matrices));
  EXPECT_EQ(
      run_ldmatrix(matrices, transposed, ds.data(), static_cast<int>(shared.size()), doff.data(), out.data()),
      cudaSuccess);
  return out.read();
}

TEST(Ldmatrix, LaneHoldsTwoNeighboursOfARow) {
  for (const int matrices : {2, 4}) {
    const std::vector<uint32_t> r = load_matrices(matrices, false);
    for (int m = 0; m < matrices; ++m) {
      const auto lane = [&](int i) { return r[static_cast<size_t>(i * matrices + m)]; };
      EXPECT_EQ(lane(0), pair(at(m, 0, 0), at(m, 0, 1)));
      EXPECT_EQ(lane(1), pair(at(m, 0, 2), at(m, 0, 3)));
      EXPECT_EQ(lane(3), pair(at(m, 0, 6), at(m, 0, 7)));
      EXPECT_EQ(lane(4), pair(at(m, 1, 0), at(m, 1, 1)));
      EXPECT_EQ(lane(13), pair(at(m, 3, 2), at(m, 3, 3)));
      EXPECT_EQ(lane(31), pair(at(m, 7, 6), at(m, 7, 7)));
    }
  }
}

TEST(Ldmatrix, TransposedLaneHoldsTwoNeighboursOfAColumn) {
  for (const int matrices : {2, 4}) {
    const std::vector<uint32_t> r = load_matrices(matrices, true);
    for (int m = 0; m < matrices; ++m) {
      const auto lane = [&](int i) { return r[static_cast<size_t>(i * matrices + m)]; };
      EXPECT_EQ(lane(0), pair(at(m, 0, 0), at(m, 1, 0)));
      EXPECT_EQ(lane(1), pair(at(m, 2, 0), at(m, 3, 0)));
      EXPECT_EQ(lane(3), pair(at(m, 6, 0), at(m, 7, 0)));
      EXPECT_EQ(lane(4), pair(at(m, 0, 1), at(m, 1, 1)));
      EXPECT_EQ(lane(13), pair(at(m, 2, 3), at(m, 3, 3)));
      EXPECT_EQ(lane(31), pair(at(m, 6, 7), at(m, 7, 7)));
    }
  }
}

TEST(CpAsync, CopiesItsWidthOrZeros) {
  std::vector<uint8_t> bytes(16);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(0x10 + i);
  const DeviceArray<uint8_t> in(bytes);
  for (const int width : {16, 8, 4})
    for (const bool valid : {true, false}) {
      const DeviceArray<uint8_t> out(16);
      ASSERT_EQ(run_cp_async(width, valid, in.data(), out.data()), cudaSuccess);
      const std::vector<uint8_t> got = out.read();
      for (int i = 0; i < 16; ++i) {
        const int expected = i >= width ? 0x77 : valid ? 0x10 + i : 0;
        EXPECT_EQ(got[static_cast<size_t>(i)], expected)
            << width << " bytes, valid " << valid << ", byte " << i;
      }
    }
}

TEST(Ex2, PowersOfTwo) {
  std::vector<float> exponents(32, 0.5f);
  exponents[0] = 0.0f, exponents[1] = 1.0f, exponents[2] = -1.0f, exponents[3] = 10.0f, exponents[4] = -100.0f;
  exponents[5] = -std::numeric_limits<float>::infinity();
  exponents[6] = 200.0f;
  const DeviceArray<float> in(exponents), out(32);
  ASSERT_EQ(run_ex2(in.data(), out.data()), cudaSuccess);
  const std::vector<float> got = out.read();
  constexpr double kRelative = 3e-7;  // 2^-22 and the rounding of the result
  const double expected[] = {1.0, 2.0, 0.5, 1024.0, 7.888609052210118e-31};
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(got[i] / expected[i], 1.0, kRelative);
  EXPECT_EQ(got[5], 0.0f);
  EXPECT_EQ(got[6], std::numeric_limits<float>::infinity());
  EXPECT_NEAR(got[7], 1.4142135623730951, 1.4142135623730951 * kRelative);
}

TEST(NamedBarrier, ArrivingAloneLetsOthersPass) {
  const DeviceArray<float> out(32);
  ASSERT_EQ(run_named_barrier(out.data()), cudaSuccess);
  const std::vector<float> got = out.read();
  for (int i = 0; i < 32; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], 10.0f + static_cast<float>(31 - i));
}

}  // namespace
}  // namespace longhaul::testing
