// Gradients over ranks against those of one rank, which the op's tests hold to finite differences.
#include <cmath>

#include "attention_ranks.h"
#include "parallel/thread_transport.h"

namespace longhaul::testing {
namespace {

struct Gradients {
  std::vector<int32_t> rows;
  std::vector<float> q, k, v;
};

Result<Gradients> differentiate(Communicator& world, Backend& backend, Stream& stream, const AttentionCase& c,
                                const SequenceGrid& grid) {
  constexpr DType kF32 = DType::kF32;
  LONGHAUL_ASSIGN(const auto attention,
                  SequenceAttention::create(world, stream, grid, shape_of(c, kF32), c.bounds));
  DeviceRows memory(backend, stream);
  const auto& rows = attention->packed_rows();
  const Tensor q = memory.put(c.q, rows, c.heads, c.dim, kF32);
  const Tensor k = memory.put(c.k, rows, c.kv_heads, c.dim, kF32);
  const Tensor v = memory.put(c.v, rows, c.kv_heads, c.dim, kF32);
  const Tensor out = memory.make(kF32, attention->rows(), c.heads, c.dim);
  Tensor lse = memory.make(kF32, attention->rows(), c.heads, 1);
  lse.rank = 2;
  // Any gradient will do: the queries' own values, turned round.
  const std::vector<float> upstream(c.q.rbegin(), c.q.rend());
  const Tensor d_out = memory.put(upstream, rows, c.heads, c.dim, kF32);
  const Tensor d_q = memory.make(kF32, attention->rows(), c.heads, c.dim);
  const Tensor d_k = memory.make(kF32, attention->rows(), c.kv_heads, c.dim);
  const Tensor d_v = memory.make(kF32, attention->rows(), c.kv_heads, c.dim);
  LONGHAUL_TRY(attention->forward(stream, q, k, v, out, lse));
  for (int twice = 0; twice < 2; ++twice) {  // what the first call leaves behind changes nothing
    LONGHAUL_TRY(attention->backward(stream, q, k, v, out, lse, d_out, d_q, d_k, d_v));
  }
  return Gradients{rows, memory.get(d_q), memory.get(d_k), memory.get(d_v)};
}

void expect_rows(const Gradients& part, const std::vector<float>& got, const std::vector<float>& single,
                 int64_t width, const char* what) {
  for (size_t i = 0; i < part.rows.size(); ++i) {
    for (int64_t e = 0; e < width; ++e) {
      const double want = single[static_cast<size_t>(part.rows[i] * width + e)];
      const double x = got[i * static_cast<size_t>(width) + static_cast<size_t>(e)];
      ASSERT_LE(std::fabs(x - want), 1e-5 + 1e-5 * std::fabs(want))
          << what << " row " << part.rows[i] << ", " << e;
    }
  }
}

class SequenceBackwardTest : public ::testing::TestWithParam<int> {
 protected:
  void expect_all_grids(const std::string& device, const AttentionCase& c) const {
    for (const NamedGrid& g : grids_of(GetParam())) {
      if (!HeadSplit::make(static_cast<int32_t>(c.heads), static_cast<int32_t>(c.kv_heads), g.grid.ulysses)
               .ok()) {
        continue;
      }
      SCOPED_TRACE(c.name + " on " + device + ", " + g.name);
      on_ranks(GetParam(), device, [&](Rank& rank) {
        const auto alone =
            Communicator::create(std::move(make_thread_transports(1)[0]), rank.backend, kPatience);
        auto single = differentiate(*alone, rank.backend, rank.stream, c, {});
        ASSERT_OK(single.status());
        auto part = differentiate(rank.world, rank.backend, rank.stream, c, g.grid);
        ASSERT_OK(part.status());
        expect_rows(part.value(), part.value().q, single.value().q, c.heads * c.dim, "d_q");
        expect_rows(part.value(), part.value().k, single.value().k, c.kv_heads * c.dim, "d_k");
        expect_rows(part.value(), part.value().v, single.value().v, c.kv_heads * c.dim, "d_v");
      });
      if (::testing::Test::HasFailure()) return;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Worlds, SequenceBackwardTest, ::testing::ValuesIn(world_sizes()),
                         [](const auto& info) { return std::to_string(info.param); });

TEST_P(SequenceBackwardTest, GradientsAreThoseOfOneRank) {
  expect_all_grids("cpu", make_case({37, 3, 50, 1}, 8, 2, 16));  // KV heads that several ranks share
  expect_all_grids("cpu", make_case({64}, 6, 3, 16));
  expect_all_grids("reference", make_case({21, 11}, 4, 4, 8));
}

TEST_P(SequenceBackwardTest, GradientsAreStagedToo) {
  expect_all_grids("apart", make_case({17, 6}, 4, 2, 8));
}

}  // namespace
}  // namespace longhaul::testing
