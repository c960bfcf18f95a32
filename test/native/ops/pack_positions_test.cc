// pack_positions: where rows go, and what becomes of their keys.
#include <algorithm>
#include <cmath>
#include <complex>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class PackPositionsTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, PackPositionsTest, ::testing::ValuesIn(Device::all()), DeviceName());

class PackPositionsAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, PackPositionsAgainstReference, ::testing::ValuesIn(Device::tested()),
                         DeviceName());

Array frequencies_of(int32_t dim, double theta = 10000) {
  Array frequencies(DType::kF64, {dim / 2});
  for (int32_t i = 0; i < dim / 2; ++i) frequencies.set(i, std::pow(theta, -2.0 * i / dim));
  return frequencies;
}

Status run_pack(Device& device, CacheCase& cache, const Array& frequencies, int32_t end, int32_t begin = 0) {
  Placement p(device);
  const PlacedCache placed = place(p, cache, CacheUse::kWrite);
  PackPositionsArgs args;
  args.pages = placed.pages;
  args.views = placed.views;
  args.sequences = cache.sequences();
  args.frequencies = p.in(frequencies);
  args.kv_heads = cache.kv_heads();
  args.begin = begin;
  args.end = end;
  args.max_length = std::max(cache.longest(), 1);
  Status status = run(device.backend(), device.stream(), args);
  if (status.ok()) status = device.stream().synchronize();
  p.finish();
  return status;
}

// The cache as it has to be, by complex numbers: pair i turns by distance * frequency.
void pack_by_hand(CacheCase& cache, const Array& frequencies, int32_t end, int32_t begin = 0) {
  const int32_t half = cache.dim() / 2;
  for (int64_t s = 0; s < cache.sequences(); ++s) {
    for (int32_t h = 0; h < cache.kv_heads(); ++h) {
      for (int32_t row = 0; row < cache.length(s, h); ++row) {
        const int64_t slot = cache.slot(s, h, row);
        if (cache.positions.get(slot) < begin) continue;
        const int32_t packed = end - cache.length(s, h) + row;
        const double distance = packed - cache.positions.get(slot);
        for (int32_t i = 0; i < half && distance != 0; ++i) {
          const int64_t low = slot * cache.dim() + i;
          const std::complex<double> pair(cache.k.get(low), cache.k.get(low + half));
          const std::complex<double> turned = pair * std::polar(1.0, distance * frequencies.get(i));
          cache.k.set(low, turned.real());
          cache.k.set(low + half, turned.imag());
        }
        cache.positions.set(slot, packed);
      }
    }
  }
}

// Normal keys have coordinates of up to 6, cos and sin are rounded to f32.
constexpr Bound kRotated{16, 4};

TEST_P(PackPositionsTest, RowsGoToTheEndAndKeysTurn) {
  for (DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    SCOPED_TRACE(name_of(type));
    CacheCase actual(random, {type, 24, {{0, 33, 70}, {16, 1, 15}}, 2});
    CacheCase expected = actual;
    const Array frequencies = frequencies_of(24);
    pack_by_hand(expected, frequencies, 91);
    EXPECT_OK(run_pack(device(), actual, frequencies, 91));
    // Rows of pages that nobody holds are in these arrays too: they stay as they are.
    expect_same(actual.positions, expected.positions);
    expect_same(actual.v, expected.v);
    expect_close(actual.k, expected.k, kRotated);
    actual.k = expected.k;
    expect_same(actual, expected);
  }
}

TEST_P(PackPositionsTest, RowsInPlaceKeepTheirBits) {
  CacheCase cache(random, {DType::kBf16, 64, {{40}}, 0});
  for (int32_t row = 0; row < 40; ++row)
    cache.positions.set(cache.slot(0, 0, row), row < 30 ? 10 + row : 900 + row);
  const CacheCase before = cache;
  EXPECT_OK(run_pack(device(), cache, frequencies_of(64), 50));
  for (int32_t row = 0; row < 40; ++row) {
    EXPECT_EQ(cache.position(0, 0, row), 10 + row);
    if (row < 30) {
      EXPECT_EQ(cache.key(0, 0, row), before.key(0, 0, row)) << row;
    } else {
      EXPECT_NE(cache.key(0, 0, row), before.key(0, 0, row)) << row;
    }
  }
  const Array again = cache.k;
  EXPECT_OK(run_pack(device(), cache, frequencies_of(64), 50));
  expect_same(cache.k, again);
}

// Packed rows stay where they are while newer ones move up to them.
TEST_P(PackPositionsTest, RowsBelowTheBeginningStay) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    CacheCase actual(random, {type, 16, {{50, 7}, {33, 40}}, 0});
    for (int64_t s = 0; s < 2; ++s) {
      for (int32_t h = 0; h < 2; ++h) {
        for (int32_t row = 0; row < actual.length(s, h); ++row) {
          actual.positions.set(actual.slot(s, h, row), row < 5 + 9 * h ? 3 * row : 500 + 2 * row);
        }
      }
    }
    CacheCase expected = actual;
    const Array frequencies = frequencies_of(16);
    pack_by_hand(expected, frequencies, 110, 60);
    EXPECT_OK(run_pack(device(), actual, frequencies, 110, 60));
    EXPECT_EQ(actual.position(0, 0, 4), 12);
    EXPECT_EQ(actual.position(0, 0, 5), 65);
    expect_same(actual.positions, expected.positions);
    expect_close(actual.k, expected.k, kRotated);
    EXPECT_EQ(actual.key(1, 1, 13), expected.key(1, 1, 13));
    EXPECT_NE(actual.key(1, 1, 14), expected.key(1, 1, 13));
  }
}

// Far from home: an angle of 1e8 radians is off by 8 in f32.
TEST_P(PackPositionsTest, AnglesAreDouble) {
  CacheCase actual(random, {DType::kF32, 16, {{20}}, 0});
  for (int32_t row = 0; row < 20; ++row) actual.positions.set(actual.slot(0, 0, row), 100000000 + 7 * row);
  CacheCase expected = actual;
  const Array frequencies = frequencies_of(16, 500000);
  pack_by_hand(expected, frequencies, 20);
  EXPECT_OK(run_pack(device(), actual, frequencies, 20));
  expect_close(actual.k, expected.k, kRotated);
}

TEST_P(PackPositionsAgainstReference, Matches) {
  const std::vector<std::vector<int32_t>> lengths[] = {{{5}}, {{130, 16, 0, 65}}, {{48, 3}, {0, 200}}};
  for (DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int32_t dim : {2, 8, 24, 64, 80, 128, 256}) {
      for (const auto& shape : lengths) {
        SCOPED_TRACE(std::string(name_of(type)) + " dim " + std::to_string(dim));
        CacheCase actual(random, {type, dim, shape, 1});
        CacheCase expected = actual;
        const Array frequencies = frequencies_of(dim);
        const int32_t end = actual.longest() + 3;
        EXPECT_OK(run_pack(device(), actual, frequencies, end));
        EXPECT_OK(run_pack(reference(), expected, frequencies, end));
        expect_same(actual.positions, expected.positions);
        expect_close(actual.k, expected.k, kRotated);
        actual.k = expected.k;
        expect_same(actual, expected);
      }
    }
  }
}

TEST_P(PackPositionsTest, NothingToPack) {
  CacheCase cache(random, {DType::kF32, 8, {{0, 0}}, 1});
  const CacheCase before = cache;
  EXPECT_OK(run_pack(device(), cache, frequencies_of(8), 4));
  expect_same(cache.k, before.k);
  expect_same(cache, before);
}

}  // namespace
}  // namespace longhaul::testing
