// Gradients of experts, gates and router losses: against central differences in double of the formulas, and the
// devices against the reference.
#include <cmath>
#include <functional>

#include "ops/device.h"
#include "ops/routing_formula.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class ExpertGradientsTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, ExpertGradientsTest, ::testing::ValuesIn(Device::all()), DeviceName());

// Of what the reference rounds, once, to f32; others sum in f32.
double allowed(const std::string& device) {
  return device == "reference" ? 1e-6 : 4e-6;
}

double largest(const std::vector<double>& values) {
  double most = 0;
  for (double x : values) most = std::max(most, std::fabs(x));
  return most;
}

// Expects `gradient` to be d loss / d array, every element, within `tolerance` of the largest.
void expect_gradient(const Array& gradient, const Array& at, double tolerance, const char* name,
                     const std::function<double(const Array&)>& loss) {
  constexpr double kStep = 1e-5;
  Array point(DType::kF64, at.shape);  // steps are finer than f32
  for (int64_t i = 0; i < at.size(); ++i) point.set(i, at.get(i));
  std::vector<double> numeric;
  for (int64_t i = 0; i < at.size(); ++i) {
    const double value = at.get(i);
    point.set(i, value + kStep);
    const double above = loss(point);
    point.set(i, value - kStep);
    const double below = loss(point);
    point.set(i, value);
    numeric.push_back((above - below) / (2 * kStep));
  }
  const double most = largest(numeric);
  ASSERT_GT(most, 0) << name;
  for (int64_t i = 0; i < at.size(); ++i) {
    ASSERT_NEAR(gradient.get(i), numeric[static_cast<size_t>(i)], tolerance * most) << name << " element " << i;
  }
}

struct Layer {
  static constexpr int64_t kRows = 5, kInputs = 12, kOutputs = 10, kExperts = 6, kRank = 3;
  static constexpr double kScale = 2;
  Array x, gate, a, b, dout;
  RouterSettings router;
};

Layer random_layer(Random& random, const RouterSettings& router) {
  Layer layer;
  layer.router = router;
  layer.x = Array::normal(random, DType::kF32, {Layer::kRows, Layer::kInputs});
  layer.gate = Array::normal(random, DType::kF32, {Layer::kExperts, Layer::kInputs});
  for (int64_t i = 0; i < layer.gate.size(); ++i) layer.gate.set(i, layer.gate.get(i) * 0.3);
  layer.a = Array::normal(random, DType::kF32, {Layer::kExperts, Layer::kRank, Layer::kInputs});
  layer.b = Array::normal(random, DType::kF32, {Layer::kExperts, Layer::kOutputs, Layer::kRank});
  layer.dout = Array::normal(random, DType::kF32, {Layer::kRows, Layer::kOutputs});
  return layer;
}

std::vector<double> logits_of(const Array& x, const Array& gate, int64_t row) {
  std::vector<double> logits;
  for (int64_t e = 0; e < gate.shape[0]; ++e) {
    double sum = 0;
    for (int64_t d = 0; d < x.shape[1]; ++d) sum += x.at({row, d}) * gate.at({e, d});
    logits.push_back(sum);
  }
  return logits;
}

// sum(dout * y) of the layer's experts, masks as they are at the layer's own x and gate.
double layer_loss(const Layer& l, const Array& x, const Array& gate, const Array& a, const Array& b) {
  double loss = 0;
  for (int64_t i = 0; i < Layer::kRows; ++i) {
    const RoutedRow here = formula_route(logits_of(l.x, l.gate, i), l.router);
    const RoutedRow row = formula_route(logits_of(x, gate, i), l.router);
    double kept = 0;
    for (int64_t e = 0; e < Layer::kExperts; ++e)
      kept += here.mask[static_cast<size_t>(e)] * row.p[static_cast<size_t>(e)];
    for (int64_t e = 0; e < Layer::kExperts; ++e) {
      if (here.mask[static_cast<size_t>(e)] == 0) continue;
      const double weight = row.p[static_cast<size_t>(e)] / (l.router.renormalize ? kept : 1);
      for (int64_t k = 0; k < Layer::kRank; ++k) {
        double u = 0, t = 0;
        for (int64_t d = 0; d < Layer::kInputs; ++d) u += a.at({e, k, d}) * x.at({i, d});
        for (int64_t n = 0; n < Layer::kOutputs; ++n) t += b.at({e, n, k}) * l.dout.at({i, n});
        loss += Layer::kScale * weight * u * t;
      }
    }
  }
  return loss;
}

struct LayerGradients {
  Array dx, dgate, da, db, dweights, dlogits;
};

// Forward as adapters run it, then back: the way a trainer goes.
LayerGradients run_layer(Device& device, const Layer& l) {
  LayerGradients g{Array(DType::kF32, l.x.shape, 2),
                   Array(DType::kF32, l.gate.shape),
                   Array(DType::kF32, l.a.shape),
                   Array(DType::kF32, l.b.shape),
                   Array(DType::kF32, {Layer::kRows, Layer::kExperts}),
                   Array(DType::kF32, {Layer::kRows, Layer::kExperts})};
  Array weights(DType::kF32, {Layer::kRows, 1, Layer::kExperts});
  Array logits = weights;
  Array middle(DType::kF32, {Layer::kRows, 1, Layer::kExperts * Layer::kRank});
  Array stacked = l.a;
  stacked.shape = {Layer::kExperts * Layer::kRank, Layer::kInputs};
  const Weight packed = device.pack({stacked});

  Placement p(device);
  Backend& backend = device.backend();
  Stream& stream = device.stream();
  const Tensor x = p.in(l.x), gate = p.in(l.gate), dout = p.in(l.dout);
  const ExpertSegment segment{.row_count = Layer::kRows,
                              .parts = {ExpertPart{.experts = Layer::kExperts,
                                                   .rank = Layer::kRank,
                                                   .scale = Layer::kScale,
                                                   .a = &packed,
                                                   .weighted = true,
                                                   .gate = gate,
                                                   .router = l.router}}};
  ExpertShrinkArgs shrink{.x = x, .segments = &segment, .segment_count = 1};
  shrink.weights = p.out(weights);
  shrink.middle = p.out(middle);
  shrink.logits = p.out(logits);
  EXPECT_OK(run(backend, stream, shrink, p.workspace(backend.ops().expert_shrink_workspace(shrink))));
  const auto matrix = [](const Tensor& t) { return Tensor::dense(t.data, t.dtype, {t.shape[0], t.shape[2]}); };
  ExpertBackwardArgs back{
      .x = x, .dout = dout, .a = p.in(l.a), .b = p.in(l.b), .weights = matrix(shrink.weights)};
  back.middle = Tensor::dense(shrink.middle.data, DType::kF32, {Layer::kRows, Layer::kExperts, Layer::kRank});
  back.scale = Layer::kScale;
  back.dx = p.out(g.dx);
  back.da = p.out(g.da);
  back.db = p.out(g.db);
  back.dweights = p.out(g.dweights);
  EXPECT_OK(run(backend, stream, back, p.workspace(backend.ops().expert_backward_workspace(back))));
  RouteBackwardArgs route{.logits = matrix(shrink.logits), .dweights = back.dweights, .router = l.router};
  route.dlogits = p.out(g.dlogits);
  EXPECT_OK(run(backend, stream, route));
  EXPECT_OK(run(backend, stream,
                LinearBackwardArgs{
                    .x = x, .dy = route.dlogits, .weight = gate, .dx = back.dx, .dweight = p.out(g.dgate)}));
  p.finish();
  return g;
}

std::vector<RouterSettings> layer_routers() {
  std::vector<RouterSettings> routers(4);
  routers[1].renormalize = true;
  routers[1].include_crossing = true;
  routers[2] = top_k_router(2);
  routers[3] = dense_router(Layer::kExperts);
  return routers;
}

TEST_P(ExpertGradientsTest, OfExpertsAndGateAreDifferences) {
  for (const RouterSettings& router : layer_routers()) {
    const Layer l = random_layer(random, router);
    const LayerGradients g = run_layer(device(), l);
    const double tolerance = allowed(GetParam());
    expect_gradient(g.da, l.a, tolerance, "da",
                    [&](const Array& a) { return layer_loss(l, l.x, l.gate, a, l.b); });
    expect_gradient(g.db, l.b, tolerance, "db",
                    [&](const Array& b) { return layer_loss(l, l.x, l.gate, l.a, b); });
    expect_gradient(g.dx, l.x, tolerance, "dx",
                    [&](const Array& x) { return layer_loss(l, x, l.gate, l.a, l.b); });
    expect_gradient(g.dgate, l.gate, tolerance, "dgate",
                    [&](const Array& gate) { return layer_loss(l, l.x, gate, l.a, l.b); });
  }
}

// Gradients are added to what is there, and an unused expert's middle is not read.
TEST_P(ExpertGradientsTest, AreAddedAndLeaveUnusedExpertsOut) {
  constexpr int64_t kRows = 3, kInputs = 7, kOutputs = 5, kExperts = 3, kRank = 2;
  Array x = Array::normal(random, DType::kF32, {kRows, kInputs}, 1);
  Array dout = Array::normal(random, DType::kF32, {kRows, kOutputs}, 2);
  Array a = Array::normal(random, DType::kF32, {kExperts, kRank, kInputs});
  Array b = Array::normal(random, DType::kF32, {kExperts, kOutputs, kRank});
  Array weights(DType::kF32, {kRows, kExperts}, 1), middle(DType::kF32, {kRows, kExperts, kRank});
  for (int64_t i = 0; i < kRows; ++i) {
    weights.set(i * kExperts, 0.5);
    weights.set(i * kExperts + 2, 0.25);
    for (int64_t e = 0; e < kExperts; ++e) {
      for (int64_t k = 0; k < kRank; ++k) {
        double sum = e == 1 ? NAN : 0;
        for (int64_t d = 0; d < kInputs; ++d) sum += a.at({e, k, d}) * x.at({i, d});
        middle.set((i * kExperts + e) * kRank + k, sum);
      }
    }
  }
  Array dx = Array::normal(random, DType::kF32, {kRows, kInputs}, 3),
        da = Array::normal(random, DType::kF32, a.shape);
  Array db = Array::normal(random, DType::kF32, b.shape), dweights(DType::kF32, {kRows, kExperts});
  Array want_dx = dx, want_da = da, want_db = db, want_dweights = dweights;
  const auto add = [](Array& to, int64_t i, double value) { to.set(i, to.get(i) + value); };
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t e : {0, 2}) {
      for (int64_t k = 0; k < kRank; ++k) {
        const double w = 3 * weights.at({i, e}), u = middle.at({i, e, k});
        double t = 0;
        for (int64_t n = 0; n < kOutputs; ++n) {
          t += b.at({e, n, k}) * dout.at({i, n});
          add(want_db, (e * kOutputs + n) * kRank + k, w * dout.at({i, n}) * u);
        }
        add(want_dweights, i * kExperts + e, 3 * t * u);
        for (int64_t d = 0; d < kInputs; ++d) {
          add(want_da, (e * kRank + k) * kInputs + d, w * t * x.at({i, d}));
          add(want_dx, i * kInputs + d, w * t * a.at({e, k, d}));
        }
      }
    }
  }
  Placement p(device());
  ExpertBackwardArgs args{p.in(x), p.in(dout), p.in(a),   p.in(b),   p.in(weights),  p.in(middle),
                          3.0f,    p.out(dx),  p.out(da), p.out(db), p.out(dweights)};
  EXPECT_OK(run(device().backend(), device().stream(), args,
                p.workspace(device().backend().ops().expert_backward_workspace(args))));
  p.finish();
  expect_close(dx, want_dx, Bound{60});
  expect_close(da, want_da, Bound{60});
  expect_close(db, want_db, Bound{60});
  expect_close(dweights, want_dweights, Bound{60});
}

struct LossCase {
  Array logits, attended;
  RouterSettings router;
  float entropy_scale = 0.01f, balance_scale = 0.001f;
  Array usage, summary, dlogits;
};

LossCase run_loss(Device& device, LossCase c) {
  c.usage = Array(DType::kF32, {2, c.logits.shape[1]});
  c.summary = Array(DType::kF32, {4});
  c.dlogits = Array(DType::kF32, c.logits.shape);
  Placement p(device);
  const Ops& ops = device.backend().ops();
  RouterLossArgs loss{p.in(c.logits),  p.in(c.attended), c.router,        c.entropy_scale,
                      c.balance_scale, p.out(c.usage),   p.out(c.summary)};
  EXPECT_OK(run(device.backend(), device.stream(), loss, p.workspace(ops.router_loss_workspace(loss))));
  RouteBackwardArgs back{
      .logits = loss.logits, .router = c.router, .usage = loss.usage, .summary = loss.summary};
  back.attended = loss.attended;
  back.entropy_scale = c.entropy_scale;
  back.balance_scale = c.balance_scale;
  back.loss_rows = c.logits.shape[0];
  back.dlogits = p.out(c.dlogits);
  EXPECT_OK(run(device.backend(), device.stream(), back));
  p.finish();
  return c;
}

// The loss at `logits` with the masks of the case's own.
double formula_loss(const LossCase& c, const Array& logits, std::vector<double>& usage) {
  const int64_t rows = logits.shape[0], experts = logits.shape[1];
  usage.assign(static_cast<size_t>(2 * experts), 0);
  double entropy = 0, attended = 0;
  const auto row_of = [&](const Array& from, int64_t i) {
    std::vector<double> row;
    for (int64_t e = 0; e < experts; ++e) row.push_back(from.at({i, e}));
    return formula_route(row, c.router);
  };
  for (int64_t i = 0; i < rows; ++i) {
    const RoutedRow here = row_of(c.logits, i), row = row_of(logits, i);
    const double weight = c.attended ? c.attended.get(i) : 1;
    entropy += row.entropy / static_cast<double>(rows);
    attended += weight;
    double kept = 0;
    for (size_t e = 0; e < row.p.size(); ++e) kept += here.mask[e] * row.p[e];
    for (size_t e = 0; e < row.p.size(); ++e) {
      usage[e] += weight * here.mask[e] * row.p[e] / (c.router.renormalize ? kept : 1);
      usage[row.p.size() + e] += weight * row.p[e];
    }
  }
  double balance = 0;
  for (double& value : usage) value /= attended + (c.attended ? 1e-8 : 0);
  for (size_t e = 0; e < usage.size() / 2; ++e) balance += usage[e] * usage[usage.size() / 2 + e];
  return static_cast<double>(c.entropy_scale) * entropy +
         static_cast<double>(c.balance_scale) * static_cast<double>(experts) * balance;
}

TEST_P(ExpertGradientsTest, OfRouterLossesAreDifferences) {
  std::vector<RouterSettings> routers(9);
  const double index[] = {1.1, 0.5, 1, 1.4, 2, 1.1, 1, 1.4, 1.1};
  for (size_t i = 0; i < routers.size(); ++i) routers[i].entropy_index = index[i];
  routers[5].entropy_mode = routers[6].entropy_mode = EntropyMode::kStable;
  routers[7].entropy_type = EntropyType::kRenyi;
  routers[8].renormalize = true;
  routers[8].entropy_normalized = false;
  for (const RouterSettings& router : routers) {
    for (bool padded : {false, true}) {
      LossCase c;
      c.logits = Array::normal(random, DType::kF32, {7, 6});
      c.router = router;
      c.balance_scale = 0.02f;  // neither part hides in the other
      if (padded) c.attended = Array::floats({1, 1, 0, 1, 0, 1, 1});
      const LossCase done = run_loss(device(), c);
      std::vector<double> usage;
      const double loss = formula_loss(c, c.logits, usage);
      EXPECT_NEAR(done.summary.get(0), loss, 1e-6 * loss);
      for (size_t i = 0; i < usage.size(); ++i)
        EXPECT_NEAR(done.usage.get(static_cast<int64_t>(i)), usage[i], 1e-6);
      expect_gradient(done.dlogits, c.logits, allowed(GetParam()), "dlogits",
                      [&](const Array& logits) { return formula_loss(c, logits, usage); });
    }
  }
}

// More rows than a partial sum has, and the most experts.
TEST_P(ExpertGradientsTest, LossesOfManyRows) {
  LossCase c;
  c.logits = Array::normal(random, DType::kF32, {700, 64});
  c.attended = Array(DType::kF32, {700});
  for (int64_t i = 0; i < 700; ++i) c.attended.set(i, i % 5 != 0);
  const LossCase done = run_loss(device(), c);
  std::vector<double> usage;
  EXPECT_NEAR(done.summary.get(0), formula_loss(c, c.logits, usage), 1e-7);
  EXPECT_EQ(done.summary.get(3), 560);
  for (size_t i = 0; i < usage.size(); ++i)
    ASSERT_NEAR(done.usage.get(static_cast<int64_t>(i)), usage[i], 1e-6);
  expect_close(done.dlogits, run_loss(reference(), c).dlogits, Bound{1e-5, 2});
}

}  // namespace
}  // namespace longhaul::testing
