#include "cpu/pack.h"

#include <algorithm>
#include <string>

namespace longhaul::cpu {
namespace {

// One panel: `group` inputs of an output stay neighbours.
template <class T>
void pack_panel(std::span<const Tensor> parts, const PackedLayout& layout, int64_t panel, int group, T* out) {
  size_t part = 0;
  int64_t part_begin = 0;
  const int64_t end = std::min(layout.rows, (panel + 1) * kPanel);
  for (int64_t row = panel * kPanel; row < end; ++row) {
    while (row - part_begin >= parts[part].shape[0]) part_begin += parts[part++].shape[0];
    const Tensor& source = parts[part];
    const T* in = source.as<const T>() + (row - part_begin) * source.stride[0];
    T* lane = out + row % kPanel * group;
    for (int64_t col = 0; col < layout.cols; ++col) {
      lane[col / group * group * kPanel + col % group] = in[col * source.stride[1]];
    }
  }
}

}  // namespace

Result<PackedLayout> packed_layout(std::span<const Tensor> parts) {
  if (parts.empty()) return invalid_argument("pack: no parts");
  PackedLayout layout{0, parts[0].shape[1], parts[0].dtype};
  if (layout.dtype != DType::kF32 && layout.dtype != DType::kBf16 && layout.dtype != DType::kF16) {
    return invalid_argument(std::string("pack: weights must be f32, bf16 or f16, not ") +
                            name_of(layout.dtype));
  }
  for (const Tensor& part : parts) {
    if (part.rank != 2 || part.shape[1] != layout.cols || part.dtype != layout.dtype) {
      return invalid_argument("pack: parts must be matrices of one width and one dtype");
    }
    layout.rows += part.shape[0];
  }
  return layout;
}

void pack_panels(std::span<const Tensor> parts, const PackedLayout& layout, void* out, ThreadPool& pool,
                 int threads) {
  pool.run(threads, layout.panels(), [&](int64_t panel, int) {
    void* begin = static_cast<char*>(out) + panel * layout.panel_bytes();
    if (layout.dtype == DType::kF32) {
      pack_panel(parts, layout, panel, 1, static_cast<float*>(begin));
    } else {
      pack_panel(parts, layout, panel, layout.dtype == DType::kBf16 ? 2 : 1, static_cast<uint16_t*>(begin));
    }
  });
}

}  // namespace longhaul::cpu
