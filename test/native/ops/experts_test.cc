// What LoRA experts add to projections: against formulas written out here, against the reference, and against
// themselves in other batches.
#include <cmath>
#include <limits>
#include <memory>

#include "ops/device.h"
#include "ops/routing_formula.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class ExpertsTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, ExpertsTest, ::testing::ValuesIn(Device::all()), DeviceName());

constexpr RowRole kRoles[] = {RowRole::kBlock, RowRole::kDecode};

// One adapter's share in one projection.
struct PartCase {
  int32_t experts = 0, rank = 0;
  float scale = 2;
  Array a, b;  // [experts * rank, inputs], [outputs, experts * rank]
  Array gate;  // [experts, inputs], or none: weight 1
  RouterSettings router;
  Array factor, offset;  // [outputs], or none
};

struct SegmentCase {
  int64_t begin = 0, count = 0;
  std::vector<PartCase> parts;
};

struct ExpertsCase {
  Array x;
  std::vector<SegmentCase> segments;
  std::vector<Array> out;  // of each part
  RowRole role = RowRole::kBlock;
  Array weights, middle, logits, entropy;
};

PartCase part_case(Random& random, DType type, int32_t experts, int32_t rank, int64_t inputs, int64_t outputs) {
  PartCase part;
  part.experts = experts;
  part.rank = rank;
  part.a = Array::normal(random, type, {experts * rank, inputs});
  part.b = Array::normal(random, type, {outputs, experts * rank});
  if (experts > 1) {
    part.gate = Array::normal(random, DType::kF32, {experts, inputs});
    for (int64_t i = 0; i < part.gate.size(); ++i) {
      part.gate.set(i, part.gate.get(i) / std::sqrt(static_cast<double>(inputs)));
    }
  }
  return part;
}

ExpertsCase experts_case(Random& random, DType activation, DType out, int64_t rows, int64_t inputs,
                         std::vector<int64_t> outputs, int64_t gap = 5) {
  ExpertsCase c;
  c.x = Array::normal(random, activation, {rows, inputs}, gap);
  for (int64_t n : outputs) c.out.push_back(Array::normal(random, out, {rows, n}, 3));
  return c;
}

// Fills the workings with what nobody may read.
void lay_out(ExpertsCase& c, int64_t experts, int64_t width) {
  const auto parts = static_cast<int64_t>(c.out.size());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (auto [array, columns] : {std::pair{&c.weights, experts}, {&c.middle, width}, {&c.logits, experts}}) {
    *array = Array(DType::kF32, {c.x.shape[0], parts, columns});
    for (int64_t i = 0; i < array->size(); ++i) array->set(i, nan);
  }
  c.entropy = Array(DType::kF32, {c.x.shape[0], parts});
}

ExpertsCase run_experts(Device& device, ExpertsCase c) {
  int64_t experts = 1, width = 1;
  for (const SegmentCase& segment : c.segments) {
    for (const PartCase& part : segment.parts) {
      experts = std::max<int64_t>(experts, part.experts);
      width = std::max<int64_t>(width, int64_t{part.experts} * part.rank);
    }
  }
  lay_out(c, experts, width + 1);
  Placement p(device);
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<ExpertSegment> segments;
  for (const SegmentCase& from : c.segments) {
    ExpertSegment segment{.row_begin = from.begin, .row_count = from.count};
    for (size_t i = 0; i < from.parts.size(); ++i) {
      const PartCase& part = from.parts[i];
      if (part.experts == 0) continue;
      ExpertPart& to = segment.parts[i];
      to = {.experts = part.experts, .rank = part.rank, .scale = part.scale};
      to.a = weights.emplace_back(std::make_unique<Weight>(device.pack({part.a}))).get();
      to.b = weights.emplace_back(std::make_unique<Weight>(device.pack({part.b}))).get();
      to.weighted = static_cast<bool>(part.gate);
      to.gate = p.in(part.gate);
      to.router = part.router;
      to.factor = p.in(part.factor);
      to.offset = p.in(part.offset);
    }
    segments.push_back(segment);
  }
  const auto count = static_cast<int64_t>(segments.size());
  const auto parts = static_cast<int32_t>(c.out.size());
  ExpertShrinkArgs shrink{.x = p.in(c.x), .segments = segments.data(), .segment_count = count, .parts = parts};
  shrink.weights = p.out(c.weights);
  shrink.middle = p.out(c.middle);
  shrink.logits = p.out(c.logits);
  shrink.entropy = p.out(c.entropy);
  shrink.role = c.role;
  const Ops& ops = device.backend().ops();
  EXPECT_OK(run(device.backend(), device.stream(), shrink, p.workspace(ops.expert_shrink_workspace(shrink))));
  ExpertExpandArgs expand{.middle = shrink.middle, .weights = shrink.weights, .segments = segments.data()};
  expand.segment_count = count;
  expand.parts = parts;
  for (size_t i = 0; i < c.out.size(); ++i) expand.out[i] = p.out(c.out[i]);
  expand.role = c.role;
  EXPECT_OK(run(device.backend(), device.stream(), expand, p.workspace(ops.expert_expand_workspace(expand))));
  p.finish();
  return c;
}

// The formula. `magnitude` gets the sums of absolute terms.
std::vector<Array> formula(const ExpertsCase& c, std::vector<std::vector<double>>& magnitude) {
  std::vector<Array> out = c.out;
  for (const Array& array : out) magnitude.emplace_back(static_cast<size_t>(array.size()));
  for (const SegmentCase& segment : c.segments) {
    for (size_t p = 0; p < segment.parts.size(); ++p) {
      const PartCase& part = segment.parts[p];
      if (part.experts == 0) continue;
      const int64_t inputs = c.x.shape[1], outputs = out[p].shape[1], depth = int64_t{part.experts} * part.rank;
      for (int64_t i = segment.begin; i < segment.begin + segment.count; ++i) {
        std::vector<double> weights(static_cast<size_t>(part.experts), 1);
        if (part.gate) {
          std::vector<double> logits(weights.size());
          for (int64_t e = 0; e < part.experts; ++e) {
            for (int64_t d = 0; d < inputs; ++d) {
              logits[static_cast<size_t>(e)] += c.x.at({i, d}) * part.gate.at({e, d});
            }
          }
          const RoutedRow row = formula_route(logits, part.router);
          EXPECT_GT(decision_margin(row, part.router), 1e-6)
              << "a row that need not agree: choose another seed";
          weights = row.weights;
        }
        std::vector<double> middle(static_cast<size_t>(depth)), sizes(middle.size());
        for (int64_t j = 0; j < depth; ++j) {
          const double factor = static_cast<double>(part.scale) * weights[static_cast<size_t>(j / part.rank)];
          for (int64_t d = 0; d < inputs; ++d) {
            const double term = factor * c.x.at({i, d}) * part.a.at({j, d});
            middle[static_cast<size_t>(j)] += term;
            sizes[static_cast<size_t>(j)] += std::fabs(term);
          }
        }
        for (int64_t n = 0; n < outputs; ++n) {
          const int64_t at = i * outputs + n;
          double sum = out[p].get(at), size = std::fabs(sum);
          for (int64_t j = 0; j < depth; ++j) {
            sum += middle[static_cast<size_t>(j)] * part.b.at({n, j});
            size += sizes[static_cast<size_t>(j)] * std::fabs(part.b.at({n, j}));
          }
          if (part.factor) {
            sum = sum * part.factor.get(n) + (part.offset ? part.offset.get(n) : 0);
            size = size * std::fabs(part.factor.get(n)) + 1;
          }
          out[p].set(at, sum);
          magnitude[p][static_cast<size_t>(at)] = size;
        }
      }
    }
  }
  return out;
}

// `middle_type`: what a backend may round the middle to on its way into the second product.
void expect_formula(Device& device, const ExpertsCase& c, DType middle_type) {
  std::vector<std::vector<double>> magnitude;
  const std::vector<Array> expected = formula(c, magnitude);
  const ExpertsCase done = run_experts(device, c);
  for (size_t p = 0; p < expected.size(); ++p) {
    SCOPED_TRACE("part " + std::to_string(p));
    expect_close(done.out[p], expected[p], [&](int64_t i) {
      return Bound{magnitude[p][static_cast<size_t>(i)], middle_type == DType::kF32 ? 12.0 : 1.0, middle_type};
    });
  }
}

TEST_P(ExpertsTest, ExpertsAreTheirFormula) {
  for (DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    const DType act = activation(type);
    const DType middle = type == DType::kBf16 ? DType::kBf16 : DType::kF32;
    for (RowRole role : kRoles) {
      for (int64_t rows : {1, 3, 40}) {
        SCOPED_TRACE(std::string(name_of(type)) + " " + std::to_string(rows) + " rows");
        // Gate and up share an input; ranks with and without whole pairs, more experts than a lane has.
        ExpertsCase c = experts_case(random, act, act, rows, 72, {50, 33});
        c.role = role;
        c.segments = {
            {0, rows, {part_case(random, type, 6, 4, 72, 50), part_case(random, type, 6, 3, 72, 33)}}};
        expect_formula(device(), c, middle);
        // Plain LoRA on three, one of them DoRA, one untouched.
        ExpertsCase lora = experts_case(random, act, DType::kF32, rows, 64, {48, 16, 20}, 0);
        lora.role = role;
        PartCase dora = part_case(random, type, 1, 8, 64, 20);
        dora.factor = Array::normal(random, DType::kF32, {20});
        if (rows > 1) dora.offset = Array::normal(random, DType::kF32, {20});
        lora.segments = {{0, rows, {part_case(random, type, 1, 16, 64, 48), {}, dora}}};
        expect_formula(device(), lora, middle);
        // Wide: several tiles of outputs and of the middle.
        ExpertsCase wide = experts_case(random, act, act, rows, 136, {300});
        wide.role = role;
        wide.segments = {{0, rows, {part_case(random, type, 12, 24, 136, 300)}}};
        wide.segments[0].parts[0].router = top_k_router(2);
        expect_formula(device(), wide, middle);
      }
    }
  }
}

TEST_P(ExpertsTest, RowsOfSeveralAdaptersAndOfNone) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (RowRole role : kRoles) {
      const DType act = activation(type);
      ExpertsCase c = experts_case(random, act, act, 60, 72, {40, 24});
      c.role = role;
      c.segments = {{2, 1, {part_case(random, type, 6, 4, 72, 40), part_case(random, type, 6, 4, 72, 24)}},
                    {3, 20, {part_case(random, type, 1, 8, 72, 40), {}}},
                    {25, 0, {part_case(random, type, 1, 8, 72, 40), {}}},
                    {30, 29, {{}, part_case(random, type, 4, 5, 72, 24)}}};
      expect_formula(device(), c, type);
      const ExpertsCase done = run_experts(device(), c);
      for (int64_t row : {0, 1, 23, 29, 59}) {
        for (size_t p = 0; p < 2; ++p) {
          for (int64_t n = 0; n < c.out[p].shape[1]; ++n) {
            ASSERT_EQ(done.out[p].at({row, n}), c.out[p].at({row, n})) << "row " << row;
          }
        }
      }
    }
  }
}

TEST_P(ExpertsTest, MoreSegmentsThanOneLaunchTakes) {
  ExpertsCase c = experts_case(random, DType::kF32, DType::kF32, 40, 24, {16});
  c.role = RowRole::kDecode;
  for (int64_t i = 0; i < 40; i += 2)
    c.segments.push_back({i, 1, {part_case(random, DType::kF32, 3, 2, 24, 16)}});
  expect_formula(device(), c, DType::kF32);
}

// A row's result depends neither on the rest of its segment nor on the other segments.
TEST_P(ExpertsTest, RowsDoNotSeeEachOther) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (RowRole role : kRoles) {
      const DType act = activation(type);
      const PartCase part = part_case(random, type, 6, 24, 72, 40);
      ExpertsCase all = experts_case(random, act, act, 33, 72, {40});
      all.role = role;
      all.segments = {{0, 33, {part}}};
      const ExpertsCase done = run_experts(device(), all);
      for (int64_t row : {0, 13, 32}) {
        ExpertsCase one = experts_case(random, act, act, 3, 72, {40});
        one.role = role;
        one.segments = {{0, 1, {part_case(random, type, 1, 8, 72, 40)}}, {1, 1, {part}}};
        for (int64_t d = 0; d < 72; ++d) one.x.set(72 + d, all.x.at({row, d}));
        for (int64_t n = 0; n < 40; ++n) one.out[0].set(40 + n, all.out[0].at({row, n}));
        const ExpertsCase alone = run_experts(device(), one);
        for (int64_t n = 0; n < 40; ++n) ASSERT_EQ(alone.out[0].at({1, n}), done.out[0].at({row, n})) << row;
      }
    }
  }
}

TEST_P(ExpertsTest, NoBitsDependOnThreads) {
  ExpertsCase c = experts_case(random, DType::kBf16, DType::kBf16, 130, 256, {600, 600});
  c.segments = {
      {0,
       130,
       {part_case(random, DType::kBf16, 6, 24, 256, 600), part_case(random, DType::kBf16, 6, 24, 256, 600)}}};
  const ExpertsCase once = run_experts(device(), c);
  const auto single = Device::open(GetParam(), 1);
  const ExpertsCase again = run_experts(*single, c);
  for (size_t p = 0; p < 2; ++p) expect_same(again.out[p], once.out[p]);
}

// expert_expand alone, with weights that a test chose: what unused experts leave in the middle is never read.
TEST_P(ExpertsTest, UnusedExpertsAreNotRead) {
  constexpr int64_t kRows = 5, kOutputs = 37;
  constexpr int32_t kExperts = 8, kRank = 6;
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (RowRole role : kRoles) {
      const Array b = Array::normal(random, type, {kOutputs, kExperts * kRank});
      Array middle = Array::normal(random, DType::kF32, {kRows, 1, kExperts * kRank});
      Array weights(DType::kF32, {kRows, 1, kExperts});
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t e = 0; e < kExperts; ++e) {
          // The last row uses none.
          const bool used = i < 4 && (e + i) % 3 == 0;
          weights.set(i * kExperts + e, used ? 0.25 * static_cast<double>(e + 1) : 0);
          for (int64_t k = 0; k < kRank && !used; ++k) {
            middle.set((i * kExperts + e) * kRank + k, std::numeric_limits<double>::quiet_NaN());
          }
        }
      }
      Array out = Array::normal(random, DType::kF32, {kRows, kOutputs});
      Array expected = out;
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t n = 0; n < kOutputs; ++n) {
          double sum = out.at({i, n});
          for (int64_t j = 0; j < kExperts * kRank; ++j) {
            const double w = weights.at({i, 0, j / kRank});
            if (w != 0) sum += 0.5 * w * middle.at({i, 0, j}) * b.at({n, j});
          }
          expected.set(i * kOutputs + n, sum);
        }
      }
      const Weight packed = device().pack({b});
      Placement p(device());
      const ExpertSegment segment{
          .row_count = kRows,
          .parts = {
              ExpertPart{.experts = kExperts, .rank = kRank, .scale = 0.5f, .b = &packed, .weighted = true}}};
      ExpertExpandArgs args{
          .middle = p.in(middle), .weights = p.in(weights), .segments = &segment, .segment_count = 1};
      args.out[0] = p.out(out);
      args.role = role;
      EXPECT_OK(run(device().backend(), device().stream(), args,
                    p.workspace(device().backend().ops().expert_expand_workspace(args))));
      p.finish();
      expect_close(out, expected, Bound{40, type == DType::kF32 ? 12.0 : 1.0, type});
    }
  }
}

TEST_P(ExpertsTest, WeightedRowsAreAdded) {
  for (DType in : {DType::kF32, DType::kBf16}) {
    for (DType to : {DType::kF32, DType::kBf16}) {
      for (int variant = 0; variant < 4; ++variant) {
        const int64_t cols = variant < 2 ? 72 : 37;
        Array x = Array::normal(random, in, {6, cols}, 3);
        Array weights = Array::normal(random, DType::kF32, {6, 1}, 4);
        weights.set(2, 0);
        x.set(2 * cols, std::numeric_limits<double>::infinity());
        if (variant == 3) {
          weights = Array();
          x.set(2 * cols, 1);
        }
        Array out = Array::normal(random, to, {6, cols}, 5);
        Array expected = out;
        const bool accumulate = variant % 2 == 1;
        for (int64_t i = 0; i < 6; ++i) {
          const double w = weights ? weights.get(i) : 1;
          for (int64_t d = 0; d < cols; ++d) {
            expected.set(i * cols + d, (accumulate ? out.at({i, d}) : 0) + (w == 0 ? 0 : w * x.at({i, d})));
          }
        }
        Placement p(device());
        EXPECT_OK(run(device().backend(), device().stream(),
                      AddWeightedRowsArgs{p.in(x), p.in(weights), p.out(out), accumulate}));
        p.finish();
        expect_close(out, expected, Bound{10, 2});
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::testing
