// The order in which a product's tiles are worked on.
#pragma once

#include "cuda/device.cuh"

namespace longhaul::cuda {

struct TileIndex {
  int row, output;  // in tiles
};

// Bands of 16 tiles of rows, each band along the outputs: what runs at the same time is about square, so that
// L2 serves most reads of x and of the weight.
__device__ __forceinline__ TileIndex tile_at(int index, int row_tiles, int output_tiles) {
  constexpr int kBand = 16;
  const int band = index / (kBand * output_tiles), first = band * kBand;
  const int rows = min(kBand, row_tiles - first), inside = index - first * output_tiles;
  return {first + inside % rows, inside / rows};
}

}  // namespace longhaul::cuda
