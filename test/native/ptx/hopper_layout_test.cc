// Where the elements of sm_90's instructions lie: the 128-byte swizzle of the bulk copy engine and of matrix
// descriptors, and the accumulators of wgmma, spelled out from the PTX ISA ("Tensor swizzling modes",
// "wgmma.mma_async: Matrix fragments and layouts").
#include <cstdio>
#include <string>
#include <utility>

#include "ptx/device_array.h"
#include "ptx/ptx_kernels.h"

namespace longhaul::testing {
namespace {

// A GPU that is no Hopper cannot run these: say so and pass.
bool has_wgmma() {
  int major = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  if (major != 9) std::printf("compute capability %d.x has no wgmma: nothing to test\n", major);
  return major == 9;
}

// In rows of 128 bytes the 16-byte chunk c of row r lies at chunk kChunk[r % 8][c]: c xor r.
constexpr int kChunk[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                              {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                              {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};
size_t swizzled_byte(int row, int column) {  // of a 16-bit element
  return static_cast<size_t>(row * 128 + kChunk[row % 8][column / 8] * 16 + column % 8 * 2);
}
void put(std::vector<uint8_t>& tile, int row, int column, uint16_t value) {
  tile[swizzled_byte(row, column)] = static_cast<uint8_t>(value);
  tile[swizzled_byte(row, column) + 1] = static_cast<uint8_t>(value >> 8);
}

constexpr int kTensorRows = 20, kTensorColumns = 80;

std::vector<uint16_t> numbered_matrix() {
  std::vector<uint16_t> matrix(kTensorRows * kTensorColumns);
  for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<uint16_t>(i + 1);
  return matrix;
}

TEST(BulkTensorCopy, LoadsSwizzledAndZerosOutside) {
  if (!has_wgmma()) return;
  const DeviceArray<uint16_t> matrix(numbered_matrix());
  constexpr int kRows = 16;
  for (const auto& [column, row] : {std::pair{0, 0}, {32, 8}, {-8, -3}}) {
    const DeviceArray<uint8_t> out(kRows * 128);
    ASSERT_EQ(run_tma_load(matrix.data(), kTensorRows, kTensorColumns, column, row, kRows, out.data()),
              cudaSuccess);
    const std::vector<uint8_t> got = out.read();
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < 64; ++c) {
        const int i = row + r, j = column + c;
        const bool inside = i >= 0 && i < kTensorRows && j >= 0 && j < kTensorColumns;
        const int expected = inside ? i * kTensorColumns + j + 1 : 0;
        const size_t at = swizzled_byte(r, c);
        ASSERT_EQ(got[at] | got[at + 1] << 8, expected) << "row " << i << " column " << j;
      }
  }
}

TEST(BulkTensorCopy, StoresWhatLiesInside) {
  if (!has_wgmma()) return;
  const std::vector<uint16_t> before = numbered_matrix();
  const DeviceArray<uint16_t> matrix(before);
  constexpr int kRows = 8, kRow = 16, kColumn = 40;  // half of it outside in both directions
  std::vector<uint8_t> tile(kRows * 128);
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < 64; ++c) put(tile, r, c, static_cast<uint16_t>(5000 + r * 64 + c));
  const DeviceArray<uint8_t> shared(tile);
  ASSERT_EQ(run_tma_store(matrix.data(), kTensorRows, kTensorColumns, kColumn, kRow, kRows, shared.data()),
            cudaSuccess);
  const std::vector<uint16_t> after = matrix.read();
  for (int i = 0; i < kTensorRows; ++i)
    for (int j = 0; j < kTensorColumns; ++j) {
      const size_t at = static_cast<size_t>(i * kTensorColumns + j);
      const bool inside = i >= kRow && j >= kColumn;
      ASSERT_EQ(after[at], inside ? 5000 + (i - kRow) * 64 + j - kColumn : before[at])
          << "row " << i << " column " << j;
    }
}

// Accumulator `index` of a thread of the warpgroup is element (row, column) of D.
struct Place {
  int thread, index, row, column;
};
constexpr Place kPlacesD[] = {
    {0, 0, 0, 0},   {0, 1, 0, 1},    {0, 2, 8, 0},    {0, 3, 8, 1},      {0, 4, 0, 8},     {1, 0, 0, 2},
    {4, 0, 1, 0},   {13, 7, 11, 11}, {31, 0, 7, 6},   {31, 31, 15, 63},  {32, 0, 16, 0},   {64, 2, 40, 0},
    {96, 0, 48, 0}, {127, 0, 55, 6}, {127, 3, 63, 7}, {127, 30, 63, 62}, {127, 31, 63, 63}};
// Element `index` of a thread's A registers, two a register.
constexpr Place kPlacesA[] = {{0, 0, 0, 0},     {0, 1, 0, 1},    {0, 2, 8, 0},   {0, 4, 0, 8},
                              {5, 7, 9, 11},    {33, 0, 16, 2},  {70, 3, 41, 5}, {127, 0, 55, 6},
                              {127, 5, 55, 15}, {127, 7, 63, 15}};

struct Variant {
  Element element;
  int n;
  bool transposed_b;
};
class Wgmma : public ::testing::TestWithParam<Variant> {
 protected:
  uint16_t number(int value) const { return small_number(GetParam().element == Element::kF16, value); }
  static int value_b(int row, int k) { return 1 + (row * 3 + k * 5) % 13; }

  std::vector<uint8_t> tile_b() const {
    const auto [element, n, transposed] = GetParam();
    std::vector<uint8_t> tile(static_cast<size_t>(transposed ? n / 64 * 16 * 128 : n * 128));
    for (int row = 0; row < n; ++row)
      for (int k = 0; k < 16; ++k) {
        if (transposed) {  // row k of chunk row / 64 holds 64 rows of B side by side
          const int in_tile = row / 64 * 16 + k;
          put(tile, in_tile, row % 64, number(value_b(row, k)));
        } else {
          put(tile, row, k, number(value_b(row, k)));
        }
      }
    return tile;
  }

  // D - C where A is one-hot at (row, k) must be B's column k in that row.
  void expect_row(const std::vector<float>& d, int row, int k) {
    int seen = 0;
    for (const Place& at : kPlacesD) {
      const float expected = at.row == row ? static_cast<float>(value_b(at.column, k)) : 0.0f;
      EXPECT_EQ(d[static_cast<size_t>(at.thread * (GetParam().n / 2) + at.index)], 100.0f + 2.0f * expected)
          << "thread " << at.thread << " accumulator " << at.index;
      seen += at.row == row;
    }
    // Whatever its place, everything else must be untouched.
    int changed = 0;
    for (const float value : d) changed += value != 100.0f;
    EXPECT_EQ(changed, GetParam().n);
    places_seen_ += seen;
  }
  int places_seen_ = 0;

  size_t accumulators() const { return static_cast<size_t>(64 * GetParam().n); }
};

TEST_P(Wgmma, BothOperandsInSharedMemory) {
  if (!has_wgmma()) return;
  const auto [element, n, transposed] = GetParam();
  const DeviceArray<uint8_t> b(tile_b());
  const DeviceArray<float> c(std::vector<float>(accumulators(), 100.0f));
  for (const auto& [row, k] :
       {std::pair{0, 0}, {8, 1}, {7, 9}, {11, 15}, {16, 8}, {40, 7}, {55, 3}, {63, 15}}) {
    std::vector<uint8_t> tile(64 * 128);
    put(tile, row, k, number(2));
    const DeviceArray<uint8_t> a(tile);
    const DeviceArray<float> d(accumulators());
    ASSERT_EQ(run_wgmma(element, n, transposed, a.data(), b.data(), c.data(), d.data()), cudaSuccess);
    expect_row(d.read(), row, k);
  }
  EXPECT_GE(places_seen_, 10);
}

TEST_P(Wgmma, FirstOperandInRegisters) {
  if (!has_wgmma()) return;
  const auto [element, n, transposed] = GetParam();
  const DeviceArray<uint8_t> b(tile_b());
  const DeviceArray<float> c(std::vector<float>(accumulators(), 100.0f));
  for (const Place& place : kPlacesA) {
    std::vector<uint32_t> registers(128 * 4, 0);
    registers[static_cast<size_t>(place.thread * 4 + place.index / 2)] = uint32_t{number(2)}
                                                                         << 16 * (place.index % 2);
    const DeviceArray<uint32_t> a(registers);
    const DeviceArray<float> d(accumulators());
    ASSERT_EQ(run_wgmma_registers(element, n, transposed, a.data(), b.data(), c.data(), d.data()), cudaSuccess);
    expect_row(d.read(), place.row, place.column);
  }
  EXPECT_GE(places_seen_, 10);
}

std::string variant_name(const ::testing::TestParamInfo<Variant>& info) {
  return std::string(info.param.element == Element::kBf16 ? "bf16" : "f16") + "_n" +
         std::to_string(info.param.n) + (info.param.transposed_b ? "_transposed" : "");
}
INSTANTIATE_TEST_SUITE_P(
    Variants, Wgmma,
    ::testing::Values(Variant{Element::kBf16, 64, false}, Variant{Element::kBf16, 64, true},
                      Variant{Element::kBf16, 128, false}, Variant{Element::kBf16, 128, true},
                      Variant{Element::kF16, 64, false}, Variant{Element::kF16, 128, true}),
    variant_name);

}  // namespace
}  // namespace longhaul::testing
