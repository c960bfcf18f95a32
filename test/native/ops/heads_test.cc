// pack_heads and unpack_heads: heads into the parts of ranks and back, copies summed.
#include <numeric>

#include "ops/device.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class HeadsTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, HeadsTest, ::testing::ValuesIn(Device::all()), DeviceName());

// Which heads each part holds, in order.
using Parts = std::vector<std::vector<int32_t>>;

std::vector<HeadSlot> slots_of(const Parts& parts) {
  std::vector<HeadSlot> slots;
  for (const auto& heads : parts) {
    const auto first = static_cast<int32_t>(slots.size());
    for (int32_t head : heads) slots.push_back({head, first, static_cast<int32_t>(heads.size())});
  }
  return slots;
}

Array pack(Device& device, const Array& x, const Parts& parts) {
  const std::vector<HeadSlot> slots = slots_of(parts);
  Array packed(x.dtype, {x.shape[0] * static_cast<int64_t>(slots.size()) * x.shape[2]});
  Placement p(device);
  PackHeadsArgs args;
  args.x = p.in(x);
  args.slots = static_cast<const HeadSlot*>(p.in_bytes(slots.data(), slots.size() * sizeof(HeadSlot)));
  args.slot_count = static_cast<int32_t>(slots.size());
  args.packed = p.out(packed);
  EXPECT_OK(run(device.backend(), device.stream(), args));
  p.finish();
  return packed;
}

Array unpack(Device& device, const Array& packed, const Parts& parts, Array out) {
  const std::vector<HeadSlot> slots = slots_of(parts);
  Placement p(device);
  UnpackHeadsArgs args;
  args.packed = p.in(packed);
  args.slots = static_cast<const HeadSlot*>(p.in_bytes(slots.data(), slots.size() * sizeof(HeadSlot)));
  args.slot_count = static_cast<int32_t>(slots.size());
  args.out = p.out(out);
  EXPECT_OK(run(device.backend(), device.stream(), args));
  p.finish();
  return out;
}

const Parts kCases[] = {
    {{0, 1}, {2, 3}},                // divisible
    {{0}, {1, 2}, {3}},              // uneven
    {{0, 1, 2, 3}, {}},              // a rank without heads
    {{2}, {2}, {0}, {2}, {1}, {3}},  // copies
};

TEST_P(HeadsTest, PartsHoldTheirHeadsRowByRow) {
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int64_t dim : {2, 10, 16, 64, 200}) {
      for (int64_t gap : {0, 6, 8}) {
        for (const Parts& parts : kCases) {
          const Array x = Array::normal(random, dtype, {37, 4, dim}, gap);
          const Array packed = pack(device(), x, parts);
          int64_t at = 0;
          for (const auto& heads : parts) {
            for (int64_t t = 0; t < 37; ++t) {
              for (int32_t head : heads) {
                for (int64_t d = 0; d < dim; ++d) ASSERT_EQ(packed.get(at++), x.at({t, head, d}));
              }
            }
          }
          ASSERT_EQ(at, packed.size());
        }
      }
    }
  }
}

TEST_P(HeadsTest, UnpackingBringsEveryHeadBack) {
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int64_t dim : {2, 64, 200}) {
      for (const Parts& parts : {kCases[0], kCases[1], kCases[2]}) {
        const Array x = Array::normal(random, dtype, {37, 4, dim});
        expect_same(unpack(device(), pack(device(), x, parts), parts, Array(dtype, x.shape, 8)), x);
      }
    }
  }
}

// Whole numbers, so that every sum is exact: head h of n copies comes back n times as large, one without is 0.
TEST_P(HeadsTest, CopiesAreSummed) {
  const Parts parts = {{2}, {2, 0}, {0}, {2}, {1}};
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    Array packed(dtype, {3 * 6 * 40});
    for (int64_t i = 0; i < packed.size(); ++i) packed.set(i, static_cast<double>((i * 7) % 31 - 15));
    const Array out = unpack(device(), packed, parts, Array(dtype, {3, 4, 40}));
    Array expected(dtype, {3, 4, 40});
    int64_t at = 0;
    for (const auto& heads : parts) {
      for (int64_t t = 0; t < 3; ++t) {
        for (int32_t head : heads) {
          for (int64_t d = 0; d < 40; ++d) {
            const int64_t i = (t * 4 + head) * 40 + d;
            expected.set(i, expected.get(i) + packed.get(at++));
          }
        }
      }
    }
    expect_same(out, expected);
  }
}

// More slots than lanes of a warp: every part holds one copy of the only head.
TEST_P(HeadsTest, ManyPartsAreSummedInOrder) {
  const Parts parts(100, {0});
  Array packed = Array::normal(random, DType::kF32, {100 * 5 * 6});
  const Array out = unpack(device(), packed, parts, Array(DType::kF32, {5, 1, 6}));
  for (int64_t i = 0; i < 30; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < 100; ++part) sum += packed.get(part * 30 + i);
    EXPECT_NEAR(out.get(i), sum, 100 * 0x1p-24 * 40);
  }
}

TEST(HeadsArguments, AreChecked) {
  std::vector<float> data(64);
  const HeadSlot slots[] = {{0, 0, 1}};
  PackHeadsArgs pack_args{Tensor::dense(data.data(), DType::kF32, {2, 2, 4}), slots, 1,
                          Tensor::dense(data.data(), DType::kF32, {8})};
  EXPECT_TRUE(check(pack_args).ok());
  pack_args.packed.shape[0] = 9;
  EXPECT_EQ(check(pack_args).code(), Code::kInvalidArgument);
  pack_args.packed.shape[0] = 8;
  pack_args.slots = nullptr;
  EXPECT_EQ(check(pack_args).code(), Code::kInvalidArgument);
  UnpackHeadsArgs unpack_args{Tensor::dense(data.data(), DType::kBf16, {8}), slots, 1,
                              Tensor::dense(data.data(), DType::kF32, {2, 2, 4})};
  EXPECT_EQ(check(unpack_args).code(), Code::kInvalidArgument);
  unpack_args.packed.dtype = DType::kF32;
  EXPECT_TRUE(check(unpack_args).ok());
}

}  // namespace
}  // namespace longhaul::testing
