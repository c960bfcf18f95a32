// Embedding, normalisation, activation, rotary embedding and gathering: one row at a time, rows over threads.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/ops.h"
#include "cpu/pack.h"
#include "cpu/row_tasks.h"

namespace longhaul::cpu {
namespace {

// One row of packed weights as f32. `group` inputs of an output are neighbours in a panel.
template <class T>
void unpack_row(const void* panel, int64_t lane, int group, int64_t cols, float* out) {
  const T* in = static_cast<const T*>(panel) + lane * group;
  for (int64_t col = 0; col < cols; ++col) {
    out[col] = to_f32(in[col / group * group * kPanel + col % group]);
  }
}

}  // namespace

Status embed(Stream& stream, const EmbedArgs& args) {
  const PackedLayout layout = layout_of(*args.table);
  const char* const storage = static_cast<const char*>(args.table->storage.data());
  for_rows(stream, args.ids.shape[0], layout.cols, [&](int64_t row) {
    const int64_t id = args.ids.as<const int32_t>()[row * args.ids.stride[0]];
    const void* panel = storage + id / kPanel * static_cast<int64_t>(layout.panel_bytes());
    float* out = static_cast<float*>(at(args.out, row));
    if (layout.dtype == DType::kBf16) {
      unpack_row<Bf16>(panel, id % kPanel, 2, layout.cols, out);
    } else if (layout.dtype == DType::kF16) {
      unpack_row<F16>(panel, id % kPanel, 1, layout.cols, out);
    } else {
      unpack_row<float>(panel, id % kPanel, 1, layout.cols, out);
    }
  });
  return {};
}

Status rms_norm(Stream& stream, const RmsNormArgs& args) {
  const DenseKernels& kernels = *cpu_stream(stream).kernels().dense;
  const int64_t heads = args.x.rank == 3 ? args.x.shape[1] : 1;
  const int64_t dim = args.x.shape[args.x.rank - 1];
  for_rows(stream, args.x.shape[0], heads * dim, [&](int64_t row) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t column = args.x.rank == 3 ? head : 0;
      kernels.rms_norm_row(at(args.x, row, column), element_of(args.x.dtype),
                           args.delta ? at(args.delta, row) : nullptr, element_of(args.delta.dtype),
                           args.weight.as<const float>(), at(args.out, row, column), element_of(args.out.dtype),
                           dim, args.eps);
    }
  });
  return {};
}

Status swiglu(Stream& stream, const SwigluArgs& args) {
  const DenseKernels& kernels = *cpu_stream(stream).kernels().dense;
  const int64_t ff = args.out.shape[1];
  for_rows(stream, args.out.shape[0], ff, [&](int64_t row) {
    kernels.swiglu_row(at(args.gate_up, row), at(args.gate_up, row, ff), element_of(args.gate_up.dtype),
                       at(args.out, row), element_of(args.out.dtype), ff);
  });
  return {};
}

Status rope_table(Stream& stream, const RopeTableArgs& args) {
  const int64_t half = args.frequencies.shape[0];
  // A sine in double costs as much as a hundred elements elsewhere.
  for_rows(stream, args.positions.shape[0], half * 100, [&](int64_t row) {
    const double position = args.positions.as<const int32_t>()[row * args.positions.stride[0]];
    float* cos = static_cast<float*>(at(args.cos, row));
    float* sin = static_cast<float*>(at(args.sin, row));
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * args.frequencies.as<const double>()[i * args.frequencies.stride[0]];
      cos[i] = static_cast<float>(std::cos(angle));
      sin[i] = static_cast<float>(std::sin(angle));
    }
  });
  return {};
}

Status rope(Stream& stream, const RopeArgs& args) {
  const DenseKernels& kernels = *cpu_stream(stream).kernels().dense;
  const int64_t heads = args.x.shape[1];
  const int64_t dim = args.x.shape[2];
  for_rows(stream, args.x.shape[0], heads * dim, [&](int64_t row) {
    const float* cos = static_cast<const float*>(at(args.cos, row));
    const float* sin = static_cast<const float*>(at(args.sin, row));
    for (int64_t head = 0; head < heads; ++head) {
      kernels.rope_head(at(args.x, row, head), element_of(args.x.dtype), cos, sin, dim / 2);
    }
  });
  return {};
}

Status gather_rows(Stream& stream, const GatherRowsArgs& args) {
  const size_t bytes = static_cast<size_t>(args.x.shape[1]) * size_of(args.x.dtype);
  for_rows(stream, args.index.shape[0], args.x.shape[1], [&](int64_t row) {
    std::memcpy(at(args.out, row), at(args.x, args.index.as<const int32_t>()[row * args.index.stride[0]]),
                bytes);
  });
  return {};
}

}  // namespace longhaul::cpu
