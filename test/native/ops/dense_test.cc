// The dense ops: against formulas written out here, against the reference, and against themselves.
#include <cmath>

#include "ops/device.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class DenseTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, DenseTest, ::testing::ValuesIn(Device::all()), DeviceName());

class DenseAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, DenseAgainstReference, ::testing::ValuesIn(Device::tested()), DeviceName());

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBf16, DType::kF16};
constexpr DType kActivationTypes[] = {DType::kF32, DType::kBf16};

struct GemmCase {
  Array x;
  std::vector<Array> weights;  // stacked along rows
  Array bias;
  Array out;
  bool accumulate = false;
  RowRole role = RowRole::kBlock;
};

constexpr RowRole kRoles[] = {RowRole::kBlock, RowRole::kDecode};

const char* name_of_role(RowRole role) {
  return role == RowRole::kBlock ? "block" : "decode";
}

// Rows of x are `gap` elements apart: 5 misses every alignment, whole_lines(cols) none.
GemmCase gemm_case(Random& random, DType weights, DType activation, DType out, int64_t rows, int64_t outputs,
                   int64_t cols, int64_t gap = 5) {
  GemmCase c;
  c.x = Array::normal(random, activation, {rows, cols}, gap);
  const int64_t first = outputs / 2;
  if (first > 0) c.weights.push_back(Array::normal(random, weights, {first, cols}));
  c.weights.push_back(Array::normal(random, weights, {outputs - first, cols}));
  c.out = Array::normal(random, out, {rows, outputs}, 3);
  return c;
}

// The gap behind `cols` elements that lets every row start at a multiple of 64 bytes.
int64_t whole_lines(int64_t cols) {
  return (cols + 31) / 32 * 32 - cols;
}

GemmCase run_gemm(Device& device, GemmCase c) {
  const Weight weight = device.pack(c.weights);
  Placement p(device);
  GemmArgs args{p.in(c.x), &weight, p.in(c.bias), p.out(c.out), c.accumulate, c.role};
  EXPECT_OK(
      run(device.backend(), device.stream(), args, p.workspace(device.backend().ops().gemm_workspace(args))));
  p.finish();
  return c;
}

std::vector<double> absolute_values(const Array& array) {
  std::vector<double> values(static_cast<size_t>(array.size()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::fabs(array.get(static_cast<int64_t>(i)));
  return values;
}

// Sum of the absolute terms of each result.
std::vector<double> gemm_magnitude(const GemmCase& c) {
  const std::vector<double> x = absolute_values(c.x), before = absolute_values(c.out);
  std::vector<double> weight;
  for (const Array& part : c.weights) {
    const std::vector<double> values = absolute_values(part);
    weight.insert(weight.end(), values.begin(), values.end());
  }
  const auto cols = static_cast<size_t>(c.x.shape[1]), outputs = static_cast<size_t>(c.out.shape[1]);
  std::vector<double> out(before.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t row = i / outputs, n = i % outputs;
    out[i] = c.accumulate ? before[i] : 0;
    if (c.bias) out[i] += std::fabs(c.bias.get(static_cast<int64_t>(n)));
    for (size_t k = 0; k < cols; ++k) out[i] += x[row * cols + k] * weight[n * cols + k];
  }
  return out;
}

void expect_gemm(const GemmCase& actual, const GemmCase& expected, const GemmCase& input) {
  const std::vector<double> magnitude = gemm_magnitude(input);
  expect_close(actual.out, expected.out, [&](int64_t i) {
    return Bound{magnitude[static_cast<size_t>(i)], sum_steps(input.x.shape[1])};
  });
}

TEST_P(DenseTest, GemmIsTheSumOfProducts) {
  GemmCase c = gemm_case(random, DType::kF32, DType::kF32, DType::kF32, 3, 5, 7);
  c.bias = Array::normal(random, DType::kF32, {5});
  GemmCase expected = c;
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t n = 0; n < 5; ++n) {
      double sum = c.bias.get(n);
      for (int64_t k = 0; k < 7; ++k)
        sum += c.x.at({i, k}) * (n < 2 ? c.weights[0].at({n, k}) : c.weights[1].at({n - 2, k}));
      expected.out.set(i * 5 + n, sum);
    }
  }
  expect_gemm(run_gemm(device(), c), expected, c);
}

TEST_P(DenseAgainstReference, GemmMatches) {
  const int64_t shapes[][3] = {{1, 17, 172}, {2, 1, 1},     {5, 64, 64},   {7, 33, 31},
                               {16, 48, 96}, {33, 65, 172}, {70, 130, 257}};
  for (DType weights : kWeightTypes) {
    const DType act = activation(weights);
    for (const auto& [rows, outputs, cols] : shapes) {
      for (DType out : {DType::kF32, act}) {
        for (int variant = 0; variant < 8; ++variant) {
          GemmCase c = gemm_case(random, weights, act, out, rows, outputs, cols,
                                 variant % 4 < 2 ? 5 : whole_lines(cols));
          if (variant % 2 == 1) c.bias = Array::normal(random, DType::kF32, {outputs});
          c.accumulate = variant % 4 == 1 || variant % 4 == 2;
          c.role = kRoles[variant / 4];
          SCOPED_TRACE(std::string(name_of(weights)) + " " + std::to_string(rows) + "x" +
                       std::to_string(outputs) + "x" + std::to_string(cols) + " " + name_of_role(c.role) +
                       " variant " + std::to_string(variant));
          expect_gemm(run_gemm(device(), c), run_gemm(reference(), c), c);
        }
      }
    }
  }
}

// Wide enough for every tile that a table of shapes may hold.
TEST_P(DenseAgainstReference, GemmOfWideWeights) {
  for (DType weights : {DType::kF32, DType::kBf16}) {
    const DType act = activation(weights);
    GemmCase block = gemm_case(random, weights, act, act, 130, 1100, 40, whole_lines(40));
    expect_gemm(run_gemm(device(), block), run_gemm(reference(), block), block);
    GemmCase decode = gemm_case(random, weights, act, DType::kF32, 2, 12300, 40, whole_lines(40));
    decode.role = RowRole::kDecode;
    expect_gemm(run_gemm(device(), decode), run_gemm(reference(), decode), decode);
  }
}

TEST_P(DenseTest, GemmRowsDoNotSeeEachOther) {
  for (DType weights : kWeightTypes) {
    for (RowRole role : kRoles) {
      const DType act = activation(weights);
      GemmCase all = gemm_case(random, weights, act, act, 64, 40, 172);
      all.role = role;
      const GemmCase done = run_gemm(device(), all);
      for (int64_t rows : {1, 2, 7, 31}) {
        const int64_t first = 64 - rows;
        GemmCase some = gemm_case(random, weights, act, act, rows, 40, 172);
        some.role = role;
        some.weights = all.weights;
        for (int64_t i = 0; i < some.x.size(); ++i) some.x.set(i, all.x.get(first * 172 + i));
        const GemmCase alone = run_gemm(device(), some);
        for (int64_t i = 0; i < alone.out.size(); ++i) {
          ASSERT_EQ(alone.out.get(i), done.out.get(first * 40 + i))
              << name_of(weights) << " " << name_of_role(role) << " " << rows << " rows";
        }
      }
    }
  }
}

TEST_P(DenseTest, GemmBitsDependOnNeitherRunNorThreads) {
  const GemmCase c = gemm_case(random, DType::kBf16, DType::kBf16, DType::kF32, 37, 300, 200);
  const GemmCase once = run_gemm(device(), c);
  expect_same(run_gemm(device(), c).out, once.out);
  const auto single = Device::open(GetParam(), 1);
  expect_same(run_gemm(*single, c).out, once.out);
}

TEST_P(DenseTest, GemmOfNoRowsWritesNothing) {
  const GemmCase c = gemm_case(random, DType::kF32, DType::kF32, DType::kF32, 0, 17, 24);
  EXPECT_EQ(run_gemm(device(), c).out.size(), 0);
}

TEST_P(DenseTest, EmbedCopiesRows) {
  for (DType type : kWeightTypes) {
    for (int64_t hidden : {8, 33, 172, 1100}) {
      const Array table = Array::normal(random, type, {50, hidden});
      const Array ids = Array::integers({0, 49, 7, 7, 31});
      Array out(DType::kF32, {5, hidden}, 3);
      const Weight weight = device().pack({table});
      Placement p(device());
      EXPECT_OK(run(device().backend(), device().stream(), EmbedArgs{p.in(ids), &weight, p.out(out)}));
      p.finish();
      for (int64_t i = 0; i < 5; ++i) {
        const auto id = static_cast<int64_t>(ids.get(i));
        for (int64_t d = 0; d < hidden; ++d) ASSERT_EQ(out.at({i, d}), table.at({id, d})) << name_of(type);
      }
    }
  }
}

struct NormCase {
  Array x, delta, weight, out;
  bool in_place = false;
};

NormCase run_norm(Device& device, NormCase c) {
  Placement p(device);
  RmsNormArgs args;
  args.x = c.delta || c.in_place ? p.out(c.x) : p.in(c.x);
  args.delta = p.in(c.delta);
  args.weight = p.in(c.weight);
  args.out = c.in_place ? args.x : p.out(c.out);
  args.eps = 1e-5f;
  EXPECT_OK(run(device.backend(), device.stream(), args));
  p.finish();
  return c;
}

TEST_P(DenseTest, RmsNormIsItsFormula) {
  NormCase c;
  c.x = Array::normal(random, DType::kF32, {2, 6});
  c.delta = Array::normal(random, DType::kF32, {2, 6});
  c.weight = Array::normal(random, DType::kF32, {6});
  c.out = Array(DType::kF32, {2, 6});
  NormCase expected = c;
  for (int64_t i = 0; i < 2; ++i) {
    double squares = 0;
    for (int64_t d = 0; d < 6; ++d) {
      const double sum = c.x.at({i, d}) + c.delta.at({i, d});
      expected.x.set(i * 6 + d, sum);
      squares += sum * sum;
    }
    for (int64_t d = 0; d < 6; ++d) {
      const double sum = c.x.at({i, d}) + c.delta.at({i, d});
      expected.out.set(i * 6 + d, sum / std::sqrt(squares / 6 + 1e-5) * c.weight.get(d));
    }
  }
  const NormCase actual = run_norm(device(), c);
  expect_close(actual.x, expected.x, Bound{4, 1});
  expect_close(actual.out, expected.out, Bound{10});
}

TEST_P(DenseAgainstReference, RmsNormMatches) {
  for (DType x : kActivationTypes) {
    for (DType out : kActivationTypes) {
      for (int64_t dim : {8, 24, 64, 172, 256, 2050, 4608}) {
        SCOPED_TRACE(std::string(name_of(x)) + " to " + name_of(out) + " dim " + std::to_string(dim));
        const double steps = sum_steps(dim);
        NormCase c;
        c.weight = Array::normal(random, DType::kF32, {dim});
        // Of each row.
        c.x = Array::normal(random, x, {9, dim}, 3);
        c.out = Array(out, {9, dim}, 1);
        expect_close(run_norm(device(), c).out, run_norm(reference(), c).out, Bound{4, steps});
        // Behind a residual. A rounded x is one ulp of its own away from the sum that was not rounded.
        for (DType delta : kActivationTypes) {
          NormCase r = c;
          r.delta = Array::normal(random, delta, {9, dim}, 2);
          const NormCase actual = run_norm(device(), r);
          const NormCase expected = run_norm(reference(), r);
          expect_close(actual.x, expected.x, Bound{4, 1});
          expect_close(actual.out, expected.out, Bound{4, x == DType::kBf16 ? 1 : steps, x});
        }
        // Of each head of a slice, in place.
        NormCase heads = c;
        heads.x = Array::normal(random, out, {5, 3, dim}, dim);
        heads.in_place = true;
        expect_close(run_norm(device(), heads).x, run_norm(reference(), heads).x, Bound{4, steps});
      }
    }
  }
}

TEST_P(DenseTest, SwigluIsSiluOfGateTimesUp) {
  for (DType in : kActivationTypes) {
    for (DType out : kActivationTypes) {
      for (int64_t ff : {1, 16, 43, 172, 1100}) {
        Array gate_up = Array::normal(random, in, {6, 2 * ff}, 4);
        gate_up.set(0, -100);  // exp overflows in f32
        gate_up.set(2 * ff, 90);
        Array actual(out, {6, ff}, 2);
        Array expected = actual;
        for (int64_t i = 0; i < 6; ++i) {
          for (int64_t j = 0; j < ff; ++j) {
            const double gate = gate_up.at({i, j});
            expected.set(i * ff + j, gate / (1 + std::exp(-gate)) * gate_up.at({i, ff + j}));
          }
        }
        Placement p(device());
        EXPECT_OK(run(device().backend(), device().stream(), SwigluArgs{p.in(gate_up), p.out(actual)}));
        p.finish();
        expect_close(actual, expected, [&](int64_t i) { return Bound{std::fabs(expected.get(i)) + 1e-30, 8}; });
      }
    }
  }
}

struct Rotation {
  Array cos, sin;
};

Rotation rotation(Device& device, const Array& positions, int64_t dim) {
  Array frequencies(DType::kF64, {dim / 2});
  for (int64_t i = 0; i < dim / 2; ++i) {
    frequencies.set(i, std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim)));
  }
  Rotation r{Array(DType::kF32, {positions.size(), dim / 2}), Array(DType::kF32, {positions.size(), dim / 2})};
  Placement p(device);
  RopeTableArgs args{p.in(positions), p.in(frequencies), p.out(r.cos), p.out(r.sin)};
  EXPECT_OK(run(device.backend(), device.stream(), args));
  p.finish();
  return r;
}

TEST_P(DenseTest, RopeTableKeepsItsPrecisionFarOut) {
  const Array positions = Array::integers({0, 1, 4095, 131071, 2000000000});
  const Rotation r = rotation(device(), positions, 64);
  for (int64_t i = 0; i < positions.size(); ++i) {
    for (int64_t j = 0; j < 32; ++j) {
      const double angle = positions.get(i) * std::pow(10000.0, -2.0 * static_cast<double>(j) / 64);
      ASSERT_NEAR(r.cos.at({i, j}), std::cos(angle), 2e-7) << positions.get(i) << " " << j;
      ASSERT_NEAR(r.sin.at({i, j}), std::sin(angle), 2e-7) << positions.get(i) << " " << j;
    }
  }
}

TEST_P(DenseTest, RopeRotatesHalves) {
  const Array positions = Array::integers({0, 3, 70000});
  for (DType type : kActivationTypes) {
    for (int64_t dim : {8, 24, 64, 80, 128, 256}) {
      const Rotation r = rotation(reference(), positions, dim);
      const int64_t heads = dim == 80 ? 17 : 2;
      // Every second head of a wider tensor; a gap of 6 leaves no vector aligned, one of 8 all.
      Array x = Array::normal(random, type, {3, heads, dim}, dim + (dim == 80 ? 8 : 6));
      Array expected = x;
      for (int64_t i = 0; i < 3; ++i) {
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t d = 0; d < dim / 2; ++d) {
            const double c = r.cos.at({i, d});
            const double s = r.sin.at({i, d});
            const int64_t low = (i * heads + h) * dim + d;
            expected.set(low, x.get(low) * c - x.get(low + dim / 2) * s);
            expected.set(low + dim / 2, x.get(low + dim / 2) * c + x.get(low) * s);
          }
        }
      }
      Placement p(device());
      EXPECT_OK(run(device().backend(), device().stream(), RopeArgs{p.out(x), p.in(r.cos), p.in(r.sin)}));
      p.finish();
      expect_close(x, expected, Bound{8, 2});
    }
  }
}

TEST_P(DenseTest, GatherRowsCopiesBits) {
  for (DType type : {DType::kF32, DType::kBf16, DType::kI32}) {
    for (int64_t dim : {1, 17, 64, 2100}) {
      // A gap of 4 leaves rows of whole 16 bytes aligned, one of 3 none.
      Array x(type, {12, dim}, dim == 2100 ? 4 : 3);
      for (int64_t i = 0; i < x.size(); ++i) x.set(i, static_cast<double>(i % 250));
      const Array index = Array::integers({11, 0, 5, 5});
      Array out(type, {4, dim}, 2);
      Placement p(device());
      EXPECT_OK(run(device().backend(), device().stream(), GatherRowsArgs{p.in(x), p.in(index), p.out(out)}));
      p.finish();
      for (int64_t i = 0; i < 4; ++i) {
        const auto row = static_cast<int64_t>(index.get(i));
        for (int64_t d = 0; d < dim; ++d) ASSERT_EQ(out.at({i, d}), x.at({row, d}));
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::testing
