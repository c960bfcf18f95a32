#include <cmath>
#include <vector>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

void rotate_by(std::vector<double>& key, const double* frequencies, double distance) {
  const size_t half = key.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const double cos = std::cos(distance * frequencies[i]);
    const double sin = std::sin(distance * frequencies[i]);
    const double low = key[i];
    const double high = key[i + half];
    key[i] = low * cos - high * sin;
    key[i + half] = high * cos + low * sin;
  }
}

}  // namespace

Status pack_positions(Stream&, const PackPositionsArgs& a) {
  const int64_t dim = a.pages.k.shape[2];
  std::vector<double> key(static_cast<size_t>(dim));
  for (int64_t s = 0; s < a.sequences; ++s) {
    const CacheView& view = a.views[s];
    for (int32_t h = 0; h < a.kv_heads; ++h) {
      for (int32_t row = 0; row < view.length[h]; ++row) {
        const int64_t slot = slot_of(view, h, row);
        int32_t& position = a.pages.positions.as<int32_t>()[slot];
        const int32_t packed = a.end - view.length[h] + row;
        if (position < a.begin || position == packed) continue;
        load(a.pages.k.data, a.pages.k.dtype, slot * dim, dim, key.data());
        rotate_by(key, a.frequencies.as<double>(), static_cast<double>(packed) - position);
        store(a.pages.k.data, a.pages.k.dtype, slot * dim, dim, key.data());
        position = packed;
      }
    }
  }
  return Status();
}

}  // namespace longhaul::reference
