// dense_attention_backward: against finite differences in double, and CPU against the reference.
#include <cmath>

#include "ops/device.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class AttentionBackwardTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, AttentionBackwardTest, ::testing::ValuesIn(Device::all()), DeviceName());

struct BackwardCase {
  Array q, k, v, out, lse, d_out, d_q, d_k, d_v;
  std::vector<AttentionSpan> spans;
  float scale = 0;

  int64_t group() const { return q.shape[1] / k.shape[1]; }
};

const std::vector<AttentionSpan> kSpans = {{0, 5, 0, 9, 4}, {5, 3, 9, 4, 100}, {9, 3, 13, 5, -1}};
constexpr int64_t kRows = 13;
constexpr int64_t kKeys = 18;

// Values as doubles, so that they can be moved by less than f32 resolves.
struct Inputs {
  std::vector<double> q, k, v;

  explicit Inputs(const BackwardCase& c) : q(values(c.q)), k(values(c.k)), v(values(c.v)) {}
  static std::vector<double> values(const Array& x) {
    std::vector<double> out;
    for (int64_t i = 0; i < x.size(); ++i) out.push_back(x.get(i));
    return out;
  }
};

// Calls visit(row, head, out, lse) for every row that sees a key.
template <class Visit>
void attend(const BackwardCase& c, const Inputs& in, Visit visit) {
  const int64_t heads = c.q.shape[1], kv_heads = c.k.shape[1], dim = c.q.shape[2];
  for (const AttentionSpan& span : c.spans) {
    for (int64_t i = 0; i < span.q_count; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = span.q_begin + i;
        std::vector<double> out(static_cast<size_t>(dim));
        double total = 0;
        for (int64_t j = 0; j < span.k_count && j <= span.offset + i; ++j) {
          const int64_t key = ((span.k_begin + j) * kv_heads + h / c.group()) * dim;
          double score = 0;
          for (int64_t d = 0; d < dim; ++d) {
            score +=
                in.q[static_cast<size_t>((row * heads + h) * dim + d)] * in.k[static_cast<size_t>(key + d)];
          }
          const double weight = std::exp(score * double{c.scale});
          total += weight;
          for (int64_t d = 0; d < dim; ++d) {
            out[static_cast<size_t>(d)] += weight * in.v[static_cast<size_t>(key + d)];
          }
        }
        if (total == 0) continue;
        for (double& x : out) x /= total;
        visit(row, h, out, std::log(total));
      }
    }
  }
}

double loss(const BackwardCase& c, const Inputs& in) {
  double sum = 0;
  attend(c, in, [&](int64_t row, int64_t h, const std::vector<double>& out, double) {
    for (size_t d = 0; d < out.size(); ++d) sum += c.d_out.at({row, h, static_cast<int64_t>(d)}) * out[d];
  });
  return sum;
}

BackwardCase backward_case(Random& random, int64_t kv_heads, int64_t group, int64_t dim, DType dtype) {
  BackwardCase c;
  c.q = Array::normal(random, dtype, {kRows, kv_heads * group, dim}, 8);
  c.k = Array::normal(random, dtype, {kKeys, kv_heads, dim}, 8);
  c.v = Array::normal(random, dtype, {kKeys, kv_heads, dim}, 8);
  c.d_out = Array::normal(random, dtype, c.q.shape, 4);
  c.out = Array(dtype, c.q.shape, 4);
  c.lse = Array(DType::kF32, {kRows, kv_heads * group});
  c.d_q = Array(DType::kF32, c.q.shape, 4);
  c.d_k = Array(DType::kF32, c.k.shape, 4);
  c.d_v = Array(DType::kF32, c.v.shape, 4);
  c.spans = kSpans;
  c.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  attend(c, Inputs(c), [&](int64_t row, int64_t h, const std::vector<double>& out, double lse) {
    for (int64_t d = 0; d < dim; ++d)
      c.out.set((row * c.q.shape[1] + h) * dim + d, out[static_cast<size_t>(d)]);
    c.lse.set(row * c.q.shape[1] + h, lse);
  });
  return c;
}

// What `run` says: kUnsupported on a backend without the op.
Status run_backward(Device& device, BackwardCase& c) {
  Placement p(device);
  DenseAttentionBackwardArgs args;
  args.q = p.in(c.q);
  args.k = p.in(c.k);
  args.v = p.in(c.v);
  args.spans =
      static_cast<const AttentionSpan*>(p.in_bytes(c.spans.data(), c.spans.size() * sizeof(AttentionSpan)));
  args.span_count = static_cast<int32_t>(c.spans.size());
  args.out = p.in(c.out);
  args.lse = p.in(c.lse);
  args.d_out = p.in(c.d_out);
  args.d_q = p.out(c.d_q);
  args.d_k = p.out(c.d_k);
  args.d_v = p.out(c.d_v);
  args.scale = c.scale;
  const Status status = run(device.backend(), device.stream(), args);
  p.finish();
  return status;
}

// False: there is no such op here, and asking for it said so.
bool has_gradients(Device& device, BackwardCase& c) {
  const Status status = run_backward(device, c);
  const bool missing = device.backend().ops().dense_attention_backward == nullptr;
  EXPECT_EQ(status.code(), missing ? Code::kUnsupported : Code::kOk) << status.message();
  return status.ok();
}

TEST_P(AttentionBackwardTest, IsTheSlopeOfTheLoss) {
  const BackwardCase c = backward_case(random, 2, 2, 6, DType::kF32);
  BackwardCase actual = c;
  if (!has_gradients(device(), actual)) return;
  constexpr double kStep = 1e-5;
  const auto slope = [&](std::vector<double> Inputs::*member, int64_t i) {
    Inputs up(c), down(c);
    (up.*member)[static_cast<size_t>(i)] += kStep;
    (down.*member)[static_cast<size_t>(i)] -= kStep;
    return (loss(c, up) - loss(c, down)) / (2 * kStep);
  };
  for (int64_t i = 0; i < c.q.size(); ++i) ASSERT_NEAR(actual.d_q.get(i), slope(&Inputs::q, i), 1e-5) << i;
  for (int64_t i = 0; i < c.k.size(); ++i) ASSERT_NEAR(actual.d_k.get(i), slope(&Inputs::k, i), 1e-5) << i;
  for (int64_t i = 0; i < c.v.size(); ++i) ASSERT_NEAR(actual.d_v.get(i), slope(&Inputs::v, i), 1e-5) << i;
}

TEST_P(AttentionBackwardTest, AddsToWhatIsThere) {
  BackwardCase c = backward_case(random, 1, 2, 8, DType::kF32);
  BackwardCase once = c;
  if (!has_gradients(device(), once)) return;
  for (Array BackwardCase::*d : {&BackwardCase::d_q, &BackwardCase::d_k, &BackwardCase::d_v}) {
    for (int64_t i = 0; i < (c.*d).size(); ++i) (c.*d).set(i, 100);
  }
  BackwardCase more = c;
  EXPECT_OK(run_backward(device(), more));
  for (Array BackwardCase::*d : {&BackwardCase::d_q, &BackwardCase::d_k, &BackwardCase::d_v}) {
    for (int64_t i = 0; i < (c.*d).size(); ++i) ASSERT_NEAR((more.*d).get(i), 100 + (once.*d).get(i), 2e-4);
  }
}

TEST_P(AttentionBackwardTest, MatchesTheReferenceInEveryType) {
  for (DType dtype : {DType::kF32, DType::kBf16}) {
    for (int64_t dim : {10, 64, 128, 256}) {
      for (auto [kv_heads, group] : {std::pair<int64_t, int64_t>{1, 1}, {2, 3}}) {
        const BackwardCase c = backward_case(random, kv_heads, group, dim, dtype);
        BackwardCase actual = c;
        BackwardCase expected = c;
        if (!has_gradients(device(), actual)) return;
        EXPECT_OK(run_backward(reference(), expected));
        // Gradients are f32 whatever the inputs are: both see the same values.
        const double steps = sum_steps(dim) + sum_steps(kRows * group);
        const double magnitude = 16 * static_cast<double>(group);
        expect_close(actual.d_q, expected.d_q, Bound{magnitude, steps});
        expect_close(actual.d_k, expected.d_k, Bound{magnitude, steps});
        expect_close(actual.d_v, expected.d_v, Bound{magnitude, steps});
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::testing
