#include "cpu/ops.h"
#include "cpu_test_support.h"

namespace longhaul::cpu {
namespace {

class Dense : public EveryIsa {};

// Relative distance of a value rounded to `type` after f32 arithmetic.
double tolerance(DType type, double value) {
  return std::abs(value) * (type == DType::kBf16 ? 0x1p-8 : 1e-6) + 1e-7;
}

TEST_P(Dense, RmsNormAddsThenNormalises) {
  Numbers numbers(1);
  for (DType x_type : {DType::kF32, DType::kBf16}) {
    for (DType out_type : {DType::kF32, DType::kBf16}) {
      for (bool with_delta : {false, true}) {
        for (int64_t dim : {1, 3, 16, 67, 64, 1000}) {
          constexpr int64_t kRows = 40;
          Values x(x_type, {kRows, dim}), delta(DType::kBf16, {kRows, dim}), weight(DType::kF32, {dim});
          Values out(out_type, {kRows, dim});
          x.fill(numbers);
          delta.fill(numbers);
          weight.fill(numbers);
          std::vector<double> sums(kRows * dim);
          for (int64_t i = 0; i < kRows * dim; ++i) {
            const float sum = x.get(i) + (with_delta ? delta.get(i) : 0.0f);
            sums[i] = x_type == DType::kBf16 ? to_f32(to_bf16(sum)) : sum;
          }
          RmsNormArgs args = {x.tensor(), {}, weight.tensor(), out.tensor(), 1e-5f};
          if (with_delta) args.delta = delta.tensor();
          ASSERT_TRUE(check(args).ok());
          ASSERT_TRUE(rms_norm(*stream_, args).ok());
          for (int64_t row = 0; row < kRows; ++row) {
            double squares = 0;
            for (int64_t i = 0; i < dim; ++i) squares += sums[row * dim + i] * sums[row * dim + i];
            const double scale = 1 / std::sqrt(squares / dim + 1e-5);
            for (int64_t i = 0; i < dim; ++i) {
              const double expected = sums[row * dim + i] * scale * weight.get(i);
              ASSERT_EQ(x.get(row * dim + i), static_cast<float>(sums[row * dim + i]));
              ASSERT_NEAR(out.get(row * dim + i), expected, tolerance(out_type, expected))
                  << dim << " at " << i;
            }
          }
          EXPECT_TRUE(out.intact() && x.intact());
        }
      }
    }
  }
}

TEST_P(Dense, RmsNormOfHeadsInPlace) {
  Numbers numbers(2);
  Values rows(DType::kBf16, {5, 3 * 24}), weight(DType::kF32, {8});
  rows.fill(numbers);
  weight.fill(numbers);
  std::vector<float> before;
  for (int64_t i = 0; i < 5 * 72; ++i) before.push_back(rows.get(i));
  // The middle third of each row, as 3 heads of 8.
  const Tensor heads = rows.tensor().narrow(1, 24, 24).split_last(8);
  const RmsNormArgs args = {heads, {}, weight.tensor(), heads, 1e-6f};
  ASSERT_TRUE(check(args).ok());
  ASSERT_TRUE(rms_norm(*stream_, args).ok());
  for (int64_t i = 0; i < 5 * 72; ++i) {
    const int64_t column = i % 72;
    if (column < 24 || column >= 48) {
      ASSERT_EQ(rows.get(i), before[i]);
      continue;
    }
    double squares = 0;
    for (int64_t j = i - column % 8; j < i - column % 8 + 8; ++j) squares += double{before[j]} * before[j];
    const double expected = before[i] / std::sqrt(squares / 8 + 1e-6) * weight.get(column % 8);
    ASSERT_NEAR(rows.get(i), expected, tolerance(DType::kBf16, expected));
  }
}

TEST_P(Dense, SwigluFollowsTheFormulaOutToTheTails) {
  for (DType in : {DType::kF32, DType::kBf16}) {
    for (DType to : {DType::kF32, DType::kBf16}) {
      for (int64_t ff : {1, 19, 64, 515}) {
        Numbers numbers(ff);
        constexpr int64_t kRows = 50;
        Values gate_up(in, {kRows, 2 * ff}), out(to, {kRows, ff});
        gate_up.fill(numbers);
        for (int64_t row = 0; row < kRows; ++row) {
          // Gates from -122.5 to 122.5: exp(-gate) overflows f32 on one side and vanishes on the other.
          gate_up.set(row * 2 * ff, static_cast<float>(row - kRows / 2) * 5 + 2.5f);
        }
        const SwigluArgs args = {gate_up.tensor(), out.tensor()};
        ASSERT_TRUE(check(args).ok());
        ASSERT_TRUE(swiglu(*stream_, args).ok());
        for (int64_t row = 0; row < kRows; ++row) {
          for (int64_t i = 0; i < ff; ++i) {
            const double gate = gate_up.get(row * 2 * ff + i);
            const double expected = gate / (1 + std::exp(-gate)) * gate_up.get(row * 2 * ff + ff + i);
            ASSERT_NEAR(out.get(row * ff + i), expected, tolerance(to, expected)) << "gate " << gate;
          }
        }
        EXPECT_TRUE(out.intact());
      }
    }
  }
}

TEST_P(Dense, RopeRotatesByAnglesInDouble) {
  constexpr int64_t kRows = 6, kHeads = 3;
  for (int64_t dim : {2, 16, 40, 128}) {
    for (DType type : {DType::kF32, DType::kBf16}) {
      Numbers numbers(dim);
      std::vector<int32_t> positions = {0, 1, 17, 4096, 131071, 1000003};
      std::vector<double> frequencies(dim / 2);
      for (int64_t i = 0; i < dim / 2; ++i) frequencies[i] = std::pow(10000.0, -2.0 * i / dim);
      Values cos(DType::kF32, {kRows, dim / 2}), sin(DType::kF32, {kRows, dim / 2}),
          x(type, {kRows, kHeads, dim});
      x.fill(numbers);
      std::vector<float> before;
      for (int64_t i = 0; i < kRows * kHeads * dim; ++i) before.push_back(x.get(i));
      const RopeTableArgs table = {Tensor::dense(positions.data(), DType::kI32, {kRows}),
                                   Tensor::dense(frequencies.data(), DType::kF64, {dim / 2}), cos.tensor(),
                                   sin.tensor()};
      ASSERT_TRUE(check(table).ok());
      ASSERT_TRUE(rope_table(*stream_, table).ok());
      const RopeArgs args = {x.tensor(), cos.tensor(), sin.tensor()};
      ASSERT_TRUE(check(args).ok()) << check(args).message();
      ASSERT_TRUE(rope(*stream_, args).ok());
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t i = 0; i < dim / 2; ++i) {
          const double angle = positions[row] * frequencies[i];
          for (int64_t head = 0; head < kHeads; ++head) {
            const int64_t low = (row * kHeads + head) * dim + i, high = low + dim / 2;
            const double first = before[low] * std::cos(angle) - before[high] * std::sin(angle);
            const double second = before[high] * std::cos(angle) + before[low] * std::sin(angle);
            ASSERT_NEAR(x.get(low), first, tolerance(type, first) + 3e-7) << positions[row];
            ASSERT_NEAR(x.get(high), second, tolerance(type, second) + 3e-7) << positions[row];
          }
        }
      }
      EXPECT_TRUE(x.intact());
    }
  }
}

TEST_P(Dense, GathersRowsOfAnyType) {
  Numbers numbers(9);
  for (DType type : {DType::kF32, DType::kBf16}) {
    Values x(type, {9, 37}), out(type, {4, 37});
    x.fill(numbers);
    std::vector<int32_t> index = {8, 0, 0, 5};
    const GatherRowsArgs args = {x.tensor(), Tensor::dense(index.data(), DType::kI32, {4}), out.tensor()};
    ASSERT_TRUE(check(args).ok());
    ASSERT_TRUE(gather_rows(*stream_, args).ok());
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t i = 0; i < 37; ++i) ASSERT_EQ(out.get(row * 37 + i), x.get(index[row] * 37 + i));
    }
    EXPECT_TRUE(out.intact());
  }
}

TEST_P(Dense, StoresBf16RoundedToEvenAndKeepsNotANumber) {
  const float cases[] = {1.0f,    1.00390625f, 1.01171875f, -1.00390625f, 1e-40f,
                         3.4e38f, INFINITY,    -INFINITY,   NAN,          -0.0f};
  constexpr int64_t kCount = sizeof(cases) / sizeof(cases[0]);
  for (int64_t n : {kCount, kCount * 4}) {
    std::vector<float> in(n);
    for (int64_t i = 0; i < n; ++i) in[i] = cases[i % kCount];
    std::vector<Bf16> out(n);
    kernels_->dense->store_row(in.data(), nullptr, out.data(), Element::kBf16, false, n);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(out[i].bits, to_bf16(in[i]).bits) << in[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Dense, ::testing::ValuesIn(every_isa()), isa_name);

}  // namespace
}  // namespace longhaul::cpu
