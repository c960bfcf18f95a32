#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

int64_t packed_at(const HeadSlot& slot, int64_t index, int64_t rows, int64_t row, int64_t dim) {
  return (slot.first * rows + row * slot.count + index - slot.first) * dim;
}

}  // namespace

Status pack_heads(Stream&, const PackHeadsArgs& a) {
  const int64_t dim = a.x.shape[2];
  std::vector<double> row;
  for (int64_t t = 0; t < a.x.shape[0]; ++t) {
    for (int32_t s = 0; s < a.slot_count; ++s) {
      load_row(a.x, row_at(a.x, t, a.slots[s].head), row);
      store(a.packed.data, a.packed.dtype, packed_at(a.slots[s], s, a.x.shape[0], t, dim), dim, row.data());
    }
  }
  return Status();
}

Status unpack_heads(Stream&, const UnpackHeadsArgs& a) {
  const int64_t dim = a.out.shape[2];
  std::vector<double> sum, part(static_cast<size_t>(dim));
  for (int64_t t = 0; t < a.out.shape[0]; ++t) {
    for (int64_t h = 0; h < a.out.shape[1]; ++h) {
      sum.assign(static_cast<size_t>(dim), 0);
      for (int32_t s = 0; s < a.slot_count; ++s) {
        if (a.slots[s].head != h) continue;
        load(a.packed.data, a.packed.dtype, packed_at(a.slots[s], s, a.out.shape[0], t, dim), dim, part.data());
        for (size_t d = 0; d < sum.size(); ++d) sum[d] += part[d];
      }
      store_row(a.out, row_at(a.out, t, h), sum);
    }
  }
  return Status();
}

}  // namespace longhaul::reference
