#include "model/dora.h"

#include <algorithm>
#include <cmath>

#include "core/arena.h"

namespace longhaul {
namespace {

constexpr int64_t kUnitVectors = 128;  // multiplied at a time

struct Scratch {
  Tensor x;       // [rows, inputs] act
  Tensor out;     // [rows, outputs of base] f32
  Tensor middle;  // [rows, 1, rank] f32
  Workspace workspace;
};

Scratch lay_out(Arena& arena, Backend& backend, const Weight& base, const ExpertPart& part, int64_t rows) {
  Scratch s;
  s.x = arena.take(backend.activation_dtype(base.dtype), {rows, base.cols});
  s.out = arena.take(DType::kF32, {rows, base.rows});
  s.middle = arena.take(DType::kF32, {rows, 1, part.rank});
  const Ops& ops = backend.ops();
  const size_t bytes = std::max({ops.gemm_workspace({.x = s.x, .weight = &base, .out = s.out}),
                                 ops.expert_shrink_workspace({.x = s.x, .middle = s.middle}),
                                 ops.expert_expand_workspace({.middle = s.middle})});
  s.workspace = {arena.take_bytes(bytes), bytes};
  return s;
}

// Unit vectors begin, begin + 1, ..: as bytes of `dtype`, f32 or bf16.
std::vector<char> unit_vectors(DType dtype, int64_t rows, int64_t inputs, int64_t begin) {
  std::vector<char> bytes(static_cast<size_t>(rows * inputs) * size_of(dtype));
  for (int64_t i = 0; i < rows; ++i) {
    const auto at = static_cast<size_t>(i * inputs + begin + i);
    if (dtype == DType::kBf16) {
      reinterpret_cast<Bf16*>(bytes.data())[at] = from_f32<Bf16>(1.0f);
    } else {
      reinterpret_cast<float*>(bytes.data())[at] = 1.0f;
    }
  }
  return bytes;
}

}  // namespace

Result<std::vector<float>> dora_factor(Backend& backend, Stream& stream, const Weight& base, int64_t first,
                                       const ExpertPart& part, std::span<const float> magnitude) {
  const int64_t inputs = base.cols, rows = std::min(kUnitVectors, inputs);
  Arena measure;
  lay_out(measure, backend, base, part, rows);
  LONGHAUL_ASSIGN(const Buffer memory, backend.allocate(measure.used(), MemoryUse::kWorkspace));
  Arena arena(memory);
  const Scratch s = lay_out(arena, backend, base, part, rows);

  std::vector<double> squares(magnitude.size());
  std::vector<float> columns(static_cast<size_t>(rows * base.rows));
  for (int64_t begin = 0; begin < inputs; begin += rows) {
    const int64_t count = std::min(rows, inputs - begin);
    const Tensor x = s.x.slice(0, count), out = s.out.slice(0, count);
    const std::vector<char> units = unit_vectors(x.dtype, count, inputs, begin);
    LONGHAUL_TRY(backend.upload(stream, x.data, units.data(), units.size()));
    LONGHAUL_TRY(run(backend, stream, GemmArgs{.x = x, .weight = &base, .out = out}, s.workspace));
    const ExpertSegment segment{.row_count = count, .parts = {part}};
    ExpertShrinkArgs shrink{
        .x = x, .segments = &segment, .segment_count = 1, .middle = s.middle.slice(0, count)};
    LONGHAUL_TRY(run(backend, stream, shrink, s.workspace));
    ExpertExpandArgs expand{.middle = shrink.middle, .segments = &segment, .segment_count = 1};
    expand.out[0] = out.narrow(1, first, static_cast<int64_t>(magnitude.size()));
    LONGHAUL_TRY(run(backend, stream, expand, s.workspace));
    LONGHAUL_TRY(stream.synchronize());
    LONGHAUL_TRY(backend.download(stream, columns.data(), out.data, static_cast<size_t>(out.bytes())));
    for (int64_t i = 0; i < count; ++i) {
      for (size_t n = 0; n < squares.size(); ++n) {
        const double value = static_cast<double>(columns[static_cast<size_t>(i * base.rows + first) + n]);
        squares[n] += value * value;
      }
    }
  }
  std::vector<float> factor(magnitude.size());
  for (size_t n = 0; n < factor.size(); ++n) {
    factor[n] = static_cast<float>(static_cast<double>(magnitude[n]) / std::sqrt(squares[n]));
    // A row of zeros: its output is zero whatever it is multiplied by.
    if (squares[n] == 0) factor[n] = 1.0f;
  }
  return factor;
}

}  // namespace longhaul
