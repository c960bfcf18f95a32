#include "attention_ranks.h"

#include <cstring>
#include <thread>

#include "parallel/thread_transport.h"

namespace longhaul::golden {
namespace {

// Longer than any rank is ever late.
constexpr std::chrono::milliseconds kPatience{60'000};

// Attends on one rank and writes the rows that it holds into `out`. Device memory is host memory.
Status attend_rank(Backend& backend, std::unique_ptr<Transport> transport, const AttentionInputs& in,
                   const SequenceGrid& grid, std::vector<double>& out) {
  const auto world = Communicator::create(std::move(transport), backend, kPatience);
  LONGHAUL_ASSIGN(const std::unique_ptr<Stream> stream, backend.make_stream());
  LONGHAUL_ASSIGN(const auto attention, SequenceAttention::create(*world, *stream, grid, in.shape, in.bounds));
  const auto rows_of = [&](const std::vector<float>& x, int64_t width) {
    std::vector<float> rows;
    for (int32_t row : attention->packed_rows()) {
      rows.insert(rows.end(), x.begin() + row * width, x.begin() + (row + 1) * width);
    }
    return rows;
  };
  const int64_t dim = in.shape.dim;
  const int64_t width = in.shape.heads * dim;
  std::vector<float> q = rows_of(in.q, width);
  std::vector<float> k = rows_of(in.k, in.shape.kv_heads * dim);
  std::vector<float> v = rows_of(in.v, in.shape.kv_heads * dim);
  std::vector<float> result(q.size());
  const auto tensor = [&](std::vector<float>& x, int64_t heads) {
    return Tensor::dense(x.data(), DType::kF32, {attention->rows(), heads, dim});
  };
  LONGHAUL_TRY(attention->forward(*stream, tensor(q, in.shape.heads), tensor(k, in.shape.kv_heads),
                                  tensor(v, in.shape.kv_heads), tensor(result, in.shape.heads), Tensor()));
  LONGHAUL_TRY(stream->synchronize());
  for (size_t i = 0; i < attention->packed_rows().size(); ++i) {
    const auto from = result.begin() + static_cast<int64_t>(i) * width;
    std::copy(from, from + width, out.begin() + attention->packed_rows()[i] * width);
  }
  return {};
}

Result<Array> attend(Backend& backend, const AttentionInputs& in, const SequenceGrid& grid) {
  const int ranks = grid.ulysses * grid.context;
  std::vector<double> out(in.q.size());
  std::vector<Status> statuses(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  auto ends = make_thread_transports(ranks);
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      statuses[static_cast<size_t>(r)] =
          attend_rank(backend, std::move(ends[static_cast<size_t>(r)]), in, grid, out);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) LONGHAUL_TRY(status);
  return Array::of({in.bounds.back(), in.shape.heads, in.shape.dim}, std::move(out));
}

}  // namespace

Status compare_ranks(Backend& backend, const AttentionInputs& inputs, CaseReport& report) {
  LONGHAUL_ASSIGN(const Array single, attend(backend, inputs, {}));
  for (int ranks : {2, 4, 8}) {
    const std::pair<const char*, SequenceGrid> grids[] = {
        {"ulysses_vs_single_rank", {.ulysses = ranks}},
        {"ring_vs_single_rank", {.context = ranks}},
        {"zigzag_vs_single_rank", {.context = ranks, .rows = RowScheme::kZigzag}}};
    for (const auto& [name, grid] : grids) {
      LONGHAUL_ASSIGN(const std::optional<Limit> limit, report.limits().find(name));
      if (!limit) continue;
      LONGHAUL_ASSIGN(const Array several, attend(backend, inputs, grid));
      report.add("", name, compare(*limit, several, single, name));
    }
  }
  return {};
}

}  // namespace longhaul::golden
