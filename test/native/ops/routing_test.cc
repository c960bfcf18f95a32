// The router: against its formula written out in routing_formula.h, at its edges, and against itself.
#include <cmath>

#include "ops/device.h"
#include "ops/routing_formula.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class RoutingTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, RoutingTest, ::testing::ValuesIn(Device::all()), DeviceName());

class RoutingAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, RoutingAgainstReference, ::testing::ValuesIn(Device::tested()), DeviceName());

struct RouteCase {
  Array x, gate;
  RouterSettings router;
  Array weights, entropy, mask, logits;
};

RouteCase route_case(Array x, Array gate, const RouterSettings& router) {
  RouteCase c;
  const int64_t rows = x.shape[0], experts = gate.shape[0];
  c.x = std::move(x);
  c.gate = std::move(gate);
  c.router = router;
  c.weights = Array(DType::kF32, {rows, experts}, 3);
  c.entropy = Array(DType::kF32, {rows});
  c.mask = Array(DType::kU8, {rows, experts});
  c.logits = Array(DType::kF32, {rows, experts});
  return c;
}

// The gate that gives x back: logits chosen by the test.
Array identity(int64_t experts) {
  Array gate(DType::kF32, {experts, experts});
  for (int64_t e = 0; e < experts; ++e) gate.set(e * experts + e, 1);
  return gate;
}

RouteCase run_route(Device& device, RouteCase c) {
  Placement p(device);
  const RouteArgs args{p.in(c.x),        p.in(c.gate),  c.router,       p.out(c.weights),
                       p.out(c.entropy), p.out(c.mask), p.out(c.logits)};
  EXPECT_OK(run(device.backend(), device.stream(), args));
  p.finish();
  return c;
}

// Routes chosen logits, one row.
RouteCase route_logits(Device& device, std::vector<float> logits, const RouterSettings& router) {
  const auto experts = static_cast<int64_t>(logits.size());
  Array x = Array::floats(std::move(logits));
  x.shape = {1, experts};
  return run_route(device, route_case(x, identity(experts), router));
}

std::vector<double> values(const Array& a) {
  std::vector<double> out;
  for (int64_t i = 0; i < a.size(); ++i) out.push_back(a.get(i));
  return out;
}

std::vector<double> logits_of(const Array& x, const Array& gate, int64_t row) {
  std::vector<double> logits;
  const int64_t cols = x.shape[1];
  for (int64_t e = 0; e < gate.shape[0]; ++e) {
    double sum = 0;
    for (int64_t d = 0; d < cols; ++d) sum += x.at({row, d}) * gate.at({e, d});
    logits.push_back(sum);
  }
  return logits;
}

std::vector<RouterSettings> every_router() {
  std::vector<RouterSettings> routers(11);
  routers[1].include_crossing = true;
  routers[2].renormalize = true;
  routers[3].entropy_normalized = false;
  routers[3].entropy_threshold = 0.95;
  routers[4].entropy_mode = EntropyMode::kStable;
  routers[5].entropy_mode = EntropyMode::kStable;
  routers[5].entropy_index = 1;
  routers[6].entropy_index = 1;
  routers[7].entropy_type = EntropyType::kRenyi;
  routers[7].entropy_index = 1.4;
  routers[8].entropy_index = 0.5;
  routers[9] = top_k_router(2);
  routers[10] = dense_router(64);
  return routers;
}

TEST_P(RoutingTest, RouteIsItsFormula) {
  for (const RouterSettings& router : every_router()) {
    for (int64_t experts : {1, 2, 6, 8, 33, 64}) {
      for (DType type : {DType::kF32, DType::kBf16}) {
        Array gate = Array::normal(random, DType::kF32, {experts, 40});
        for (int64_t i = 0; i < gate.size(); ++i) gate.set(i, gate.get(i) / 6);
        const RouteCase c = route_case(Array::normal(random, type, {9, 40}, 5), gate, router);
        const RouteCase done = run_route(device(), c);
        for (int64_t i = 0; i < 9; ++i) {
          const std::vector<double> logits = logits_of(c.x, c.gate, i);
          const RoutedRow row = formula_route(logits, router);
          if (decision_margin(row, router) < 1e-5) continue;
          EXPECT_NEAR(done.entropy.get(i), row.entropy, 3e-6) << experts;
          for (int64_t e = 0; e < experts; ++e) {
            const auto at = static_cast<size_t>(e);
            ASSERT_EQ(done.mask.at({i, e}), row.mask[at]) << experts << " row " << i << " expert " << e;
            ASSERT_NEAR(done.weights.at({i, e}), row.weights[at], 1e-6);
            ASSERT_NEAR(done.logits.at({i, e}), logits[at], 1e-5);
          }
        }
      }
    }
  }
}

TEST_P(RoutingTest, EqualExpertsAreTakenByIndex) {
  const RouteCase c = route_logits(device(), {2, 2, 2, -2, -2, -2}, {});
  EXPECT_EQ(values(c.mask), (std::vector<double>{1, 1, 0, 0, 0, 0}));
  EXPECT_NEAR(c.weights.get(0), 0.327338, 1e-6);
  EXPECT_NEAR(c.entropy.get(0), 0.676172, 1e-6);
  const RouteCase last = route_logits(device(), {-2, 2, -2, 2, -2, 2}, {});
  EXPECT_EQ(values(last.mask), (std::vector<double>{0, 1, 0, 1, 0, 0}));
}

TEST_P(RoutingTest, TheThresholdIsExceededStrictly) {
  RouterSettings router;
  router.entropy_threshold = 1;
  EXPECT_EQ(values(route_logits(device(), {0, 0, 0, 0, 0, 0}, router).mask),
            (std::vector<double>{1, 1, 1, 1, 0, 0}));  // four sixths are within 0.75
  // A decided row: its entropy is exactly 0.
  router.entropy_mode = EntropyMode::kStable;
  router.entropy_threshold = 0;
  EXPECT_EQ(values(route_logits(device(), {2000, 0, 0, 0}, router).mask), (std::vector<double>{1, 1, 0, 0}));
}

TEST_P(RoutingTest, ExtremeRowsStayFinite) {
  for (const RouterSettings& router : every_router()) {
    for (const std::vector<float>& logits :
         {std::vector<float>{1000, -1000, 0, 5, -3e38f, 3}, {0, 0, 0, 0, 0, 0}}) {
      const RouteCase c = route_logits(device(), logits, router);
      double sum = 0;
      for (double w : values(c.weights)) {
        ASSERT_TRUE(std::isfinite(w));
        sum += w;
      }
      EXPECT_TRUE(std::isfinite(c.entropy.get(0)));
      EXPECT_GT(sum, 0.3);
      EXPECT_LE(sum, 1.000001);
    }
  }
}

TEST_P(RoutingTest, KeepingAsManyAsThereAreKeepsAll) {
  RouterSettings router;
  router.keep_top_k = 9;
  EXPECT_EQ(values(route_logits(device(), {4, 0, 0, 0, 0, 0}, router).mask), (std::vector<double>(6, 1)));
}

// The weights of a row jump where its entropy passes the threshold: by bisection, from both sides.
TEST_P(RoutingTest, RoutingIsSoftAboveTheThresholdOnly) {
  const RouterSettings router;
  const auto entropy_at = [&](float z) {
    return formula_route({static_cast<double>(z), 0, 0, 0, 0, 0}, router).entropy;
  };
  const auto logit_for = [&](double entropy) {
    float low = 0.1f, high = 4;
    for (int i = 0; i < 60; ++i) {
      const float middle = (low + high) / 2;
      (entropy_at(middle) > entropy ? low : high) = middle;
    }
    return low;
  };
  const RouteCase soft = route_logits(device(), {logit_for(0.9 + 1e-6), 0, 0, 0, 0, 0}, router);
  const RouteCase hard = route_logits(device(), {logit_for(0.9 - 1e-6), 0, 0, 0, 0, 0}, router);
  EXPECT_EQ(values(soft.mask), (std::vector<double>(6, 1)));
  EXPECT_EQ(values(hard.mask), (std::vector<double>{1, 1, 1, 0, 0, 0}));
  EXPECT_NEAR(soft.entropy.get(0), 0.9, 2e-6);
  EXPECT_NEAR(hard.entropy.get(0), 0.9, 2e-6);
}

TEST_P(RoutingTest, TwentyThousandRowsAgreeWithADoubleGate) {
  constexpr int64_t kRows = 20000, kCols = 64, kExperts = 6;
  const RouterSettings router;
  const RouteCase c = route_case(Array::normal(random, DType::kF32, {kRows, kCols}),
                                 Array::normal(random, DType::kF32, {kExperts, kCols}), router);
  RouteCase scaled = c;  // logits of standard deviation 1: hard and soft rows
  for (int64_t i = 0; i < c.gate.size(); ++i) scaled.gate.set(i, c.gate.get(i) / 8);
  const RouteCase done = run_route(device(), scaled);
  int64_t agreed = 0, soft = 0;
  for (int64_t i = 0; i < kRows; ++i) {
    const RoutedRow row = formula_route(logits_of(scaled.x, scaled.gate, i), router);
    bool same = true;
    int kept = 0;
    for (int64_t e = 0; e < kExperts; ++e) {
      same = same && done.mask.at({i, e}) == row.mask[static_cast<size_t>(e)];
      kept += row.mask[static_cast<size_t>(e)];
    }
    agreed += same;
    soft += kept == kExperts;
  }
  EXPECT_EQ(agreed, kRows);
  EXPECT_GT(soft, kRows / 10);
  EXPECT_LT(soft, kRows / 2);
}

TEST_P(RoutingTest, RowsDoNotSeeEachOther) {
  for (int64_t cols : {64, 171}) {
    const RouteCase c = route_case(Array::normal(random, DType::kBf16, {33, cols}),
                                   Array::normal(random, DType::kF32, {6, cols}), {});
    const RouteCase all = run_route(device(), c);
    for (int64_t i : {0, 7, 32}) {
      RouteCase one = route_case(Array(DType::kBf16, {1, cols}), c.gate, {});
      for (int64_t d = 0; d < cols; ++d) one.x.set(d, c.x.at({i, d}));
      const RouteCase done = run_route(device(), one);
      for (int64_t e = 0; e < 6; ++e) {
        ASSERT_EQ(done.logits.get(e), all.logits.at({i, e}));
        ASSERT_EQ(done.weights.get(e), all.weights.at({i, e}));
      }
    }
  }
}

TEST_P(RoutingAgainstReference, LogitsOfWideRowsMatch) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (int64_t cols : {1, 33, 1024, 4100}) {
      const RouteCase c = route_case(Array::normal(random, type, {3, cols}, 1),
                                     Array::normal(random, DType::kF32, {7, cols}), {});
      expect_close(run_route(device(), c).logits, run_route(reference(), c).logits,
                   Bound{static_cast<double>(cols), sum_steps(1)});
    }
  }
}

}  // namespace
}  // namespace longhaul::testing
