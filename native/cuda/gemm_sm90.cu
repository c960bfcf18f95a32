// Blocks of rows, bf16 x bf16, on sm_90a: one warpgroup's thread feeds a ring of stages by TMA, two warpgroups
// multiply by wgmma, 64 rows each. Blocks stay and take tile after tile, so that the next tile is loaded while
// one is stored.
#include <algorithm>

#include "cuda/gemm_epilogue.cuh"
#include "cuda/gemm_problem.h"
#include "cuda/gemm_raster.cuh"
#include "cuda/hopper.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kRows = 128;
constexpr int kDepth = 64;  // of K a stage: 128 bytes, one row of the swizzle
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kConsumerWarps = 4 * kConsumers;

template <int kOutputs>
struct Storage {
  static constexpr int kStages = kOutputs == 256 ? 4 : 6;
  static constexpr int kStageBytes = (kRows + kOutputs) * kDepth * 2;
  uint16_t x[kStages][kRows * kDepth];
  uint16_t weight[kStages][kOutputs * kDepth];
  ptx::Mbar full[kStages], empty[kStages];
};

// Where a ring is: which stage, and the parity of how often it has gone round.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

struct Tiles {
  int row_tiles, output_tiles;
  int steps;  // of K
};

template <int kOutputs>
__device__ __forceinline__ void produce(Storage<kOutputs>& s, const TensorMap& x, const TensorMap& weight,
                                        Tiles tiles) {
  using S = Storage<kOutputs>;
  Place<S::kStages> place;
  for (int index = blockIdx.x; index < tiles.row_tiles * tiles.output_tiles; index += gridDim.x) {
    const TileIndex tile = tile_at(index, tiles.row_tiles, tiles.output_tiles);
    for (int step = 0; step < tiles.steps; ++step, place.advance()) {
      ptx::mbar_wait(&s.empty[place.stage], place.parity ^ 1);  // passes at once the first time round
      ptx::mbar_expect(&s.full[place.stage], S::kStageBytes);
      ptx::tma_load_2d(s.x[place.stage], &x, &s.full[place.stage], step * kDepth, tile.row * kRows);
      ptx::tma_load_2d(s.weight[place.stage], &weight, &s.full[place.stage], step * kDepth,
                       tile.output * kOutputs);
    }
  }
}

// The sums of one tile, 64 rows of this warpgroup. One group of wgmma is always under way.
template <int kOutputs>
__device__ __forceinline__ void multiply(Storage<kOutputs>& s, Place<Storage<kOutputs>::kStages>& place,
                                         int steps, int consumer, float (&sums)[kOutputs / 2]) {
  const bool speaks = threadIdx.x % 32 == 0;
  int previous = 0;
  for (int step = 0; step < steps; ++step) {
    ptx::mbar_wait(&s.full[place.stage], place.parity);
    const uint16_t* x = s.x[place.stage] + consumer * 64 * kDepth;
    const uint16_t* weight = s.weight[place.stage];
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDepth; k += 16)
      ptx::wgmma_m64k16<ptx::WgmmaType::kBf16, kOutputs>(sums, ptx::desc128(x + k), ptx::desc128(weight + k),
                                                         step > 0 || k > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (step > 0 && speaks) ptx::mbar_arrive(&s.empty[previous]);
    previous = place.stage;
    place.advance();
  }
  ptx::wgmma_wait<0>();
  if (speaks) ptx::mbar_arrive(&s.empty[previous]);
}

template <int kOutputs>
__device__ __forceinline__ void consume(Storage<kOutputs>& s, const GemmOut& out, Tiles tiles, int consumer) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  Place<Storage<kOutputs>::kStages> place;
  float sums[kOutputs / 2];
  for (int index = blockIdx.x; index < tiles.row_tiles * tiles.output_tiles; index += gridDim.x) {
    const TileIndex tile = tile_at(index, tiles.row_tiles, tiles.output_tiles);
    multiply<kOutputs>(s, place, tiles.steps, consumer, sums);
    const int row = tile.row * kRows + consumer * 64 + warp * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < kOutputs / 8; j += 4) {
        float strip[4][2];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          strip[n][0] = sums[(j + n) * 4 + half * 2];
          strip[n][1] = sums[(j + n) * 4 + half * 2 + 1];
        }
        store_strip(out, row + half * 8, tile.output * kOutputs + j * 8, strip);
      }
  }
}

template <int kOutputs>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_sm90_kernel(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, GemmOut out,
                     Tiles tiles) {
  DYNAMIC_SMEM(raw);
  auto& s = *reinterpret_cast<Storage<kOutputs>*>(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Storage<kOutputs>::kStages; ++i) {
      ptx::mbar_init(&s.full[i], 1);
      ptx::mbar_init(&s.empty[i], kConsumerWarps);
    }
    ptx::mbar_fence_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::reg_dealloc<40>();
    if (threadIdx.x == 0) produce<kOutputs>(s, x, weight, tiles);
  } else {
    ptx::reg_alloc<232>();
    consume<kOutputs>(s, out, tiles, threadIdx.x / 128 - 1);
  }
}

// Columns past `cols` and rows past the end read as zeros.
cudaError_t tile_map(const void* data, int64_t stride, int rows, int cols, int box_rows, TensorMap& map) {
  return encode_tensor_map({.element = TensorElement::kBf16,
                            .rank = 2,
                            .base = data,
                            .size = {cols, rows},
                            .stride_bytes = {0, stride * 2},
                            .box = {kDepth, box_rows},
                            .swizzle_bytes = 128},
                           map);
}

template <int kOutputs>
cudaError_t launch_tiles(const GemmProblem& p, int multiprocessors, cudaStream_t stream) {
  TensorMap x, weight;
  if (cudaError_t e = tile_map(p.x, p.x_stride, p.out.rows, p.cols, kRows, x); e != cudaSuccess) return e;
  if (cudaError_t e = tile_map(p.weight, p.pitch, p.out.outputs, p.cols, kOutputs, weight); e != cudaSuccess)
    return e;
  const Tiles tiles{(p.out.rows + kRows - 1) / kRows, (p.out.outputs + kOutputs - 1) / kOutputs,
                    (p.cols + kDepth - 1) / kDepth};
  const int blocks = std::min(tiles.row_tiles * tiles.output_tiles, multiprocessors);
  return launch(gemm_sm90_kernel<kOutputs>, dim3(blocks), dim3(kThreads), sizeof(Storage<kOutputs>), stream, x,
                weight, p.out, tiles);
}

}  // namespace

cudaError_t launch_gemm_sm90(const GemmProblem& p, BlockTile tile, int multiprocessors, cudaStream_t stream) {
  return tile == BlockTile::kNarrow ? launch_tiles<128>(p, multiprocessors, stream)
                                    : launch_tiles<256>(p, multiprocessors, stream);
}

}  // namespace longhaul::cuda
