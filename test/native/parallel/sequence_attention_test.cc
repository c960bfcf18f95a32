// Attention over ranks against the fixtures, against one rank, and against the spec's counts of bytes and work.
#include "parallel/sequence_attention.h"

#include <cmath>
#include <limits>

#include "attention_case.h"
#include "attention_ranks.h"
#include "parallel/thread_transport.h"
#include "ranks.h"

namespace longhaul::testing {
namespace {

// What one rank holds after forward().
struct Part {
  std::vector<int32_t> rows;
  std::vector<float> out, lse;
  int64_t pairs = 0;
};

Result<Part> attend(Communicator& world, Backend& backend, Stream& stream, const AttentionCase& c,
                    const SequenceGrid& grid, DType dtype) {
  LONGHAUL_ASSIGN(const auto attention,
                  SequenceAttention::create(world, stream, grid, shape_of(c, dtype), c.bounds));
  DeviceRows memory(backend, stream);
  const auto& rows = attention->packed_rows();
  const Tensor q = memory.put(c.q, rows, c.heads, c.dim, dtype);
  const Tensor k = memory.put(c.k, rows, c.kv_heads, c.dim, dtype);
  const Tensor v = memory.put(c.v, rows, c.kv_heads, c.dim, dtype);
  const Tensor out = memory.make(dtype, attention->rows(), c.heads, c.dim);
  Tensor lse = memory.make(DType::kF32, attention->rows(), c.heads, 1);
  lse.rank = 2;
  LONGHAUL_TRY(attention->forward(stream, q, k, v, out, lse));
  return Part{rows, memory.get(out), memory.get(lse), attention->pairs()};
}

Part on_one_rank(Backend& backend, Stream& stream, const AttentionCase& c, DType dtype) {
  const auto world = Communicator::create(std::move(make_thread_transports(1)[0]), backend, kPatience);
  auto part = attend(*world, backend, stream, c, {}, dtype);
  EXPECT_OK(part.status());
  return part.ok() ? part.value() : Part{};
}

// This rank's rows against the case and against the same rows of one rank.
void expect_rows(const Part& part, const Part& single, const AttentionCase& c, Against against) {
  const double allowed = against == Against::kMillionth ? 1e-6 : against == Against::kBf16 ? 0x1p-7 : 0;
  for (size_t i = 0; i < part.rows.size(); ++i) {
    const auto row = static_cast<size_t>(part.rows[i]);
    const auto width = static_cast<size_t>(c.heads * c.dim);
    for (size_t e = 0; e < width; ++e) {
      const double got = part.out[i * width + e];
      const double want = single.out[row * width + e];
      ASSERT_LE(std::fabs(got - want),
                against == Against::kBf16 ? allowed * std::max(1.0, std::fabs(want)) : allowed)
          << "row " << row << " element " << e;
      if (against == Against::kBf16) continue;
      const double truth = c.out[row * width + e];
      ASSERT_LE(std::fabs(got - truth), c.out_abs + c.out_rel * std::fabs(truth))
          << "row " << row << " element " << e;
    }
    const auto heads = static_cast<size_t>(c.heads);
    for (size_t h = 0; h < heads; ++h) {
      const double got = part.lse[i * heads + h];
      const double truth = c.lse[row * heads + h];
      if (against == Against::kBits) {
        ASSERT_EQ(part.lse[i * heads + h], single.lse[row * heads + h]);
      }
      const double slack = against == Against::kBf16 ? 1e-4 : c.lse_abs + c.lse_rel * std::fabs(truth);
      ASSERT_LE(std::fabs(got - truth), slack) << "row " << row << " head " << h;
    }
  }
}

class SequenceAttentionTest : public ::testing::TestWithParam<int> {
 protected:
  int size() const { return GetParam(); }

  void expect_all_grids(const std::string& device, const AttentionCase& c, DType dtype) const {
    for (const NamedGrid& g : grids_of(size())) {
      if (!HeadSplit::make(static_cast<int32_t>(c.heads), static_cast<int32_t>(c.kv_heads), g.grid.ulysses)
               .ok()) {
        continue;
      }
      SCOPED_TRACE(c.name + " on " + device + ", " + g.name);
      on_ranks(size(), device, [&](Rank& rank) {
        const Part single = on_one_rank(rank.backend, rank.stream, c, dtype);
        auto part = attend(rank.world, rank.backend, rank.stream, c, g.grid, dtype);
        ASSERT_OK(part.status());
        expect_rows(part.value(), single, c, dtype == DType::kF32 ? g.against : Against::kBf16);
      });
      if (::testing::Test::HasFailure()) return;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Worlds, SequenceAttentionTest, ::testing::ValuesIn(world_sizes()),
                         [](const auto& info) { return std::to_string(info.param); });

TEST_P(SequenceAttentionTest, FixturesMatchOneRankAndTheirValues) {
  for (const std::string& name : kFixtures) {
    auto c = read_case(name);
    ASSERT_OK(c.status());
    for (const char* device : {"cpu", "reference"}) expect_all_grids(device, c.value(), DType::kF32);
  }
}

AttentionCase made(std::vector<int32_t> lengths, int64_t heads, int64_t kv_heads, int64_t dim,
                   DType dtype = DType::kF32) {
  AttentionCase c = make_case(std::move(lengths), heads, kv_heads, dim, dtype);
  c.out_abs = c.lse_abs = 1e-5;
  c.out_rel = c.lse_rel = 1e-6;
  return c;
}

// Lengths that no number of ranks divides, sequences shorter than the ranks are many, and one that is long.
TEST_P(SequenceAttentionTest, RaggedBatchesMatchOneRank) {
  expect_all_grids("cpu", made({3, 70, 1, 1, 29, 16, 2}, 8, 2, 16), DType::kF32);
  expect_all_grids("cpu", made({1, 2}, 8, 8, 24), DType::kF32);
  expect_all_grids("cpu", made({601, 13}, 6, 3, 32), DType::kF32);
}

TEST_P(SequenceAttentionTest, StagedMessagesMatchOneRank) {
  expect_all_grids("apart", made({37, 50}, 8, 2, 16), DType::kF32);
}

TEST_P(SequenceAttentionTest, Bf16IsAsFarAsItsRounding) {
  expect_all_grids("cpu", made({90, 43}, 8, 2, 32, DType::kBf16), DType::kBf16);
}

// The formulas of the parallel spec, section 7, in bytes of f32 sent by one rank.
TEST_P(SequenceAttentionTest, BytesSentAreThoseOfTheFormulas) {
  const int64_t ranks = size();
  const AttentionCase c = made({128}, 8, 2, 16);
  const int64_t rows = c.rows() / ranks;
  const auto expect_traffic = [&](const SequenceGrid& grid, Collective kind, int64_t bytes) {
    on_ranks(size(), "cpu", [&](Rank& rank) {
      const auto attention =
          SequenceAttention::create(rank.world, rank.stream, grid, shape_of(c, DType::kF32), c.bounds);
      ASSERT_OK(attention.status());
      DeviceRows memory(rank.backend, rank.stream);
      const auto& own = attention.value()->packed_rows();
      const Tensor q = memory.put(c.q, own, c.heads, c.dim, DType::kF32);
      const Tensor k = memory.put(c.k, own, c.kv_heads, c.dim, DType::kF32);
      const Tensor v = memory.put(c.v, own, c.kv_heads, c.dim, DType::kF32);
      ASSERT_OK(attention.value()->forward(rank.stream, q, k, v, q, Tensor()));
      for (size_t i = 0; i < kCollectives; ++i) {
        const bool counted = i == static_cast<size_t>(kind) && ranks > 1;
        EXPECT_EQ(rank.world.traffic().counts[i].bytes, counted ? bytes : 0) << "collective " << i;
      }
    });
  };
  const int64_t head = c.dim * 4;
  // Q and O, K and V: 2 s h / P + 2 s max(Hkv, P) D / P, of which (P - 1) / P leave the rank.
  const int64_t ulysses = (2 * c.rows() * c.heads + 2 * c.rows() * std::max(c.kv_heads, ranks)) / ranks * head;
  expect_traffic({size(), 1, RowScheme::kContiguous, ContextExchange::kRing}, Collective::kAllToAll,
                 ulysses * (ranks - 1) / ranks);
  const int64_t ring = 2 * (ranks - 1) * rows * c.kv_heads * head;
  for (RowScheme scheme : {RowScheme::kContiguous, RowScheme::kZigzag}) {
    expect_traffic({1, size(), scheme, ContextExchange::kRing}, Collective::kSendReceive, ring);
    expect_traffic({1, size(), scheme, ContextExchange::kAllGather}, Collective::kAllGather, ring);
  }
}

// Pairs of a query and a key: maximum over mean is 1.00, where contiguous rows leave most to the last rank.
TEST_P(SequenceAttentionTest, ZigzagSharesTheWorkEvenly) {
  const AttentionCase c = made({256}, 4, 2, 16);
  const int64_t own = c.rows() / size();
  on_ranks(size(), "cpu", [&](Rank& rank) {
    const auto work_of = [&](RowScheme scheme) {
      const SequenceGrid grid{1, size(), scheme, ContextExchange::kRing};
      auto attention =
          SequenceAttention::create(rank.world, rank.stream, grid, shape_of(c, DType::kF32), c.bounds);
      EXPECT_OK(attention.status());
      return attention.value()->pairs();
    };
    EXPECT_EQ(work_of(RowScheme::kZigzag), c.heads * 256 * 257 / 2 / size());
    EXPECT_EQ(work_of(RowScheme::kContiguous), c.heads * (own * own * rank.index() + own * (own + 1) / 2));
  });
}

TEST_P(SequenceAttentionTest, WhatDoesNotFitIsRefused) {
  const AttentionCase c = made({32}, 4, 2, 16);
  on_ranks(size(), "cpu", [&](Rank& rank) {
    const auto create = [&](const SequenceGrid& grid) {
      return SequenceAttention::create(rank.world, rank.stream, grid, shape_of(c, DType::kF32), c.bounds);
    };
    EXPECT_EQ(create({size() + 1, 1}).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(create({0, size()}).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(create({size(), 1}).status().code(), size() > 4 ? Code::kInvalidArgument : Code::kOk)
        << "4 heads";
    const auto ring = create({1, size()});
    ASSERT_OK(ring.status());
    DeviceRows memory(rank.backend, rank.stream);
    const int64_t rows = ring.value()->rows();
    const Tensor q = memory.make(DType::kF32, rows, 4, 16);
    const Tensor k = memory.make(DType::kF32, rows, 2, 16);
    const Tensor wrong = memory.make(DType::kF32, rows + 1, 2, 16);
    EXPECT_EQ(ring.value()->forward(rank.stream, q, k, wrong, q, Tensor()).code(), Code::kInvalidArgument);
    EXPECT_EQ(ring.value()->forward(rank.stream, q, q, q, q, Tensor()).code(), Code::kInvalidArgument);
    EXPECT_OK(ring.value()->forward(rank.stream, q, k, k, q, Tensor()));
  });
}

}  // namespace
}  // namespace longhaul::testing
