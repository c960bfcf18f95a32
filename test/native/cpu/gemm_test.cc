#include <algorithm>

#include "cpu/ops.h"
#include "cpu_test_support.h"

namespace longhaul::cpu {
namespace {

class Gemm : public EveryIsa {
 protected:
  void run(const GemmArgs& args) {
    const size_t bytes = gemm_workspace(args);
    Buffer scratch = workspace(bytes);
    ASSERT_TRUE(check(args).ok()) << check(args).message();
    ASSERT_TRUE(gemm(*stream_, args, {scratch.data(), bytes}).ok());
  }

  static GemmArgs product(const Tensor& x, const Weight& weight, const Tensor& out) {
    GemmArgs args;
    args.x = x;
    args.weight = &weight;
    args.out = out;
    return args;
  }

  // Sums in double, with the sum of magnitudes that bounds the rounding.
  static void expect_product(const Values& x, const Values& w, const Values* bias, const Values* before,
                             const Values& out) {
    const int64_t rows = x.tensor().shape[0], cols = x.tensor().shape[1], outputs = w.tensor().shape[0];
    const double step = out.tensor().dtype == DType::kBf16 ? 0x1p-8 : 0x1p-23;
    // An f32 x meets bf16 weights rounded to bf16 where the instruction set multiplies pairs.
    const bool rounded = w.tensor().dtype == DType::kBf16 && x.tensor().dtype == DType::kF32;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t output = 0; output < outputs; ++output) {
        double sum = bias == nullptr ? 0 : bias->get(output);
        if (before != nullptr) sum += before->get(row * outputs + output);
        double magnitude = std::abs(sum);
        for (int64_t k = 0; k < cols; ++k) {
          const double product = double{x.get(row * cols + k)} * w.get(output * cols + k);
          sum += product;
          magnitude += std::abs(product);
        }
        const double tolerance = magnitude * (rounded ? 0x1p-8 : 0x1p-20) + std::abs(sum) * step;
        ASSERT_NEAR(out.get(row * outputs + output), sum, tolerance) << "row " << row << " output " << output;
      }
    }
  }
};

struct Types {
  DType weight, x, out;
};
constexpr Types kTypes[] = {
    {DType::kF32, DType::kF32, DType::kF32},   {DType::kBf16, DType::kBf16, DType::kBf16},
    {DType::kBf16, DType::kBf16, DType::kF32}, {DType::kBf16, DType::kF32, DType::kF32},
    {DType::kF16, DType::kF32, DType::kF32},   {DType::kF32, DType::kBf16, DType::kF32},
};

TEST_P(Gemm, MatchesSumsInDoubleForOddShapes) {
  struct Shape {
    int64_t rows, outputs, cols;
  };
  // Tails in every extent; more rows than a task, more columns than a block, fewer panels than a step.
  constexpr Shape kShapes[] = {{1, 1, 1},     {1, 16, 2},    {1, 200, 67},    {2, 33, 5},
                               {3, 130, 64},  {5, 17, 31},   {7, 64, 129},    {13, 300, 40},
                               {14, 48, 96},  {15, 15, 15},  {37, 80, 700},   {130, 145, 33},
                               {250, 20, 11}, {4, 257, 600}, {60, 200, 1100}, {0, 5, 7}};
  Numbers numbers(1);
  for (const Types& types : kTypes) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(std::string(name_of(types.weight)) + " x " + name_of(types.x) + " -> " + name_of(types.out) +
                   ": " + std::to_string(shape.rows) + ", " + std::to_string(shape.outputs) + ", " +
                   std::to_string(shape.cols));
      Values x(types.x, {shape.rows, shape.cols}), w(types.weight, {shape.outputs, shape.cols});
      Values out(types.out, {shape.rows, shape.outputs});
      x.fill(numbers);
      w.fill(numbers);
      const Weight weight = pack({w.tensor()});
      run(product(x.tensor(), weight, out.tensor()));
      expect_product(x, w, nullptr, nullptr, out);
      EXPECT_TRUE(out.intact());
    }
  }
}

TEST_P(Gemm, AddsBiasAndAccumulates) {
  Numbers numbers(2);
  for (const Types& types : kTypes) {
    for (int64_t rows : {1, 20}) {
      Values x(types.x, {rows, 50}), w(types.weight, {70, 50}), bias(DType::kF32, {70}),
          out(types.out, {rows, 70});
      x.fill(numbers);
      w.fill(numbers);
      bias.fill(numbers);
      out.fill(numbers);
      const Values before = [&] {
        Values copy(types.out, {rows, 70});
        for (int64_t i = 0; i < rows * 70; ++i) copy.set(i, out.get(i));
        return copy;
      }();
      const Weight weight = pack({w.tensor()});
      run({.x = x.tensor(), .weight = &weight, .bias = bias.tensor(), .out = out.tensor(), .accumulate = true});
      expect_product(x, w, &bias, &before, out);
    }
  }
}

TEST_P(Gemm, GivesARowTheSameBitsWhateverTheOtherRowsAre) {
  constexpr int64_t kRows = 137, kOutputs = 210, kCols = 1030;
  Numbers numbers(3);
  for (const Types& types : kTypes) {
    Values x(types.x, {kRows, kCols}), w(types.weight, {kOutputs, kCols}), all(types.out, {kRows, kOutputs});
    x.fill(numbers);
    w.fill(numbers);
    const Weight weight = pack({w.tensor()});
    run(product(x.tensor(), weight, all.tensor()));
    for (int64_t count : {1, 2, 3, 5, 6, 12, 13, 14, 37}) {
      Values some(types.out, {count, kOutputs});
      const int64_t first = kRows - count;
      run(product(x.tensor().slice(first, count), weight, some.tensor()));
      EXPECT_EQ(std::memcmp(some.tensor().data, all.tensor().slice(first, count).data, some.tensor().bytes()),
                0)
          << name_of(types.weight) << " " << count;
    }
  }
}

TEST_P(Gemm, ReadsAndWritesStridedRows) {
  Numbers numbers(4);
  Values wide_x(DType::kBf16, {20, 90}), w(DType::kBf16, {40, 60}), wide_out(DType::kF32, {20, 100});
  wide_x.fill(numbers);
  w.fill(numbers);
  const Weight weight = pack({w.tensor()});
  for (int64_t i = 0; i < 2000; ++i) wide_out.set(i, 7);
  run(product(wide_x.tensor().narrow(1, 30, 60), weight, wide_out.tensor().narrow(1, 50, 40)));
  Values x(DType::kBf16, {20, 60}), out(DType::kF32, {20, 40});
  for (int64_t row = 0; row < 20; ++row) {
    for (int64_t k = 0; k < 60; ++k) x.set(row * 60 + k, wide_x.get(row * 90 + 30 + k));
    for (int64_t column = 0; column < 100; ++column) {
      const float value = wide_out.get(row * 100 + column);
      if (column >= 50 && column < 90) {
        out.set(row * 40 + column - 50, value);
      } else {
        ASSERT_EQ(value, 7) << row << ", " << column;
      }
    }
  }
  expect_product(x, w, nullptr, nullptr, out);
}

TEST_P(Gemm, PackedPartsAreStackedAndEmbeddedExactly) {
  Numbers numbers(5);
  for (DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    Values first(type, {21, 33}), second(type, {1, 33}), third(type, {40, 33});
    first.fill(numbers);
    second.fill(numbers);
    third.fill(numbers);
    const Weight table = pack({first.tensor(), second.tensor(), third.tensor()});
    ASSERT_EQ(table.rows, 62);
    ASSERT_EQ(table.cols, 33);
    std::vector<int32_t> ids = {0, 61, 20, 21, 22, 15, 16, 21};
    Values out(DType::kF32, {8, 33});
    const EmbedArgs args = {Tensor::dense(ids.data(), DType::kI32, {8}), &table, out.tensor()};
    ASSERT_TRUE(check(args).ok());
    ASSERT_TRUE(embed(*stream_, args).ok());
    for (int64_t row = 0; row < 8; ++row) {
      for (int64_t k = 0; k < 33; ++k) {
        const int32_t id = ids[row];
        const float expected = id < 21   ? first.get(id * 33 + k)
                               : id < 22 ? second.get(k)
                                         : third.get((id - 22) * 33 + k);
        ASSERT_EQ(out.get(row * 33 + k), expected) << name_of(type) << " id " << id << " column " << k;
      }
    }
  }
}

TEST(GemmWorkspace, GrowsWithEveryExtent) {
  Weight weight;
  weight.dtype = DType::kBf16;
  size_t before = 0;
  for (int64_t rows : {1, 13, 14, 15, 300}) {
    GemmArgs args;
    args.x = Tensor::dense(&weight, DType::kBf16, {rows, 65});
    args.weight = &weight;
    EXPECT_GE(gemm_workspace(args), before);
    before = gemm_workspace(args);
    args.x.shape[1] = 67;
    EXPECT_GE(gemm_workspace(args), before);
  }
}

TEST(Pack, RefusesWhatItCannotHold) {
  auto backend = make_cpu_backend(1);
  ASSERT_TRUE(backend.ok());
  Values a(DType::kF32, {2, 3}), b(DType::kF32, {2, 4}), c(DType::kBf16, {2, 3});
  const Tensor widths[] = {a.tensor(), b.tensor()};
  const Tensor dtypes[] = {a.tensor(), c.tensor()};
  const Tensor integers[] = {Tensor::dense(&a, DType::kI32, {2, 3})};
  EXPECT_EQ(backend.value()->pack(widths).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(backend.value()->pack(dtypes).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(backend.value()->pack(integers).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(backend.value()->pack({}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(backend.value()->allocated(MemoryUse::kWeights), 0u);
}

INSTANTIATE_TEST_SUITE_P(Isa, Gemm, ::testing::ValuesIn(every_isa()), isa_name);

}  // namespace
}  // namespace longhaul::cpu
