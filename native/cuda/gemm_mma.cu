// Blocks of rows, bf16 x bf16: mma.sync fed by a ring of cp.async copies. Runs from sm_80 on.
#include "cuda/gemm_epilogue.cuh"
#include "cuda/gemm_problem.h"
#include "cuda/gemm_raster.cuh"
#include "cuda/ptx.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kDepth = 32;  // of K a stage
constexpr int kChunks = kDepth / 8;
constexpr int kStages = 3;
constexpr int kThreads = 128;

template <int kSide>
struct Storage {
  unsigned char x[kStages][kSide * kDepth * 2];
  unsigned char weight[kStages][kSide * kDepth * 2];
};

// Rows of four 16-byte chunks. Two rows fill a line of banks, so a chunk's place is permuted by its pair of
// rows: the eight rows that ldmatrix reads at once lie in eight different places.
__device__ __forceinline__ unsigned char* chunk(unsigned char* tile, int row, int column) {
  return tile + (row * kChunks + (column ^ (row >> 1 & 3))) * 16;
}

// Eight elements of x by single loads, for rows of any alignment.
__device__ __forceinline__ Bytes16 gather8(const uint16_t* from, int count) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = 2 * i < count ? from[2 * i] : 0, high = 2 * i + 1 < count ? from[2 * i + 1] : 0;
    words[i] = low | high << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Starts the copies of columns [k, k + kDepth) of both tiles.
template <int kSide, bool kAligned>
__device__ __forceinline__ void load_stage(Storage<kSide>& s, int stage, const GemmProblem& p, TileIndex tile,
                                           int k) {
  const int column = threadIdx.x % kChunks, at = k + column * 8;
  const int valid = min(max(p.cols - at, 0), 8);  // x is not padded, the weight is
#pragma unroll
  for (int i = 0; i < kSide; i += kThreads / kChunks) {
    const int row = i + threadIdx.x / kChunks, from = tile.row * kSide + row;
    const int count = from < p.out.rows ? valid : 0;
    const auto* x = static_cast<const uint16_t*>(p.x) + (count > 0 ? from * p.x_stride + at : 0);
    unsigned char* target = chunk(s.x[stage], row, column);
    if constexpr (kAligned) {
      ptx::cp_async16_partial(target, x, count * 2);
    } else {
      store16(target, gather8(x, count));
    }
  }
#pragma unroll
  for (int i = 0; i < kSide; i += kThreads / kChunks) {
    const int row = i + threadIdx.x / kChunks, from = tile.output * kSide + row;
    const bool inside = from < p.out.outputs;
    const auto* weight = static_cast<const uint16_t*>(p.weight) + (inside ? from * p.pitch + at : 0);
    ptx::cp_async16(chunk(s.weight[stage], row, column), weight, inside);
  }
}

// 2 x 2 warps, each a quarter of the tile.
template <int kSide, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2) gemm_mma_kernel(GemmProblem p, int row_tiles, int output_tiles) {
  constexpr int kPart = kSide / 2, kRowFragments = kPart / 16, kOutputFragments = kPart / 8;
  DYNAMIC_SMEM(raw);
  auto& s = *reinterpret_cast<Storage<kSide>*>(raw);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / 2 * kPart, output = warp % 2 * kPart;
  const TileIndex tile = tile_at(blockIdx.x, row_tiles, output_tiles);
  const int steps = (p.cols + kDepth - 1) / kDepth;

  for (int i = 0; i < kStages - 1; ++i) {
    if (i < steps) load_stage<kSide, kAligned>(s, i, p, tile, i * kDepth);
    ptx::cp_async_commit();
  }
  float sums[kRowFragments][kOutputFragments][4] = {};
  for (int step = 0, stage = 0; step < steps; ++step, stage = stage == kStages - 1 ? 0 : stage + 1) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // this stage is there, and all have left the one that is filled next
    const int next = step + kStages - 1;
    if (next < steps)
      load_stage<kSide, kAligned>(s, stage == 0 ? kStages - 1 : stage - 1, p, tile, next * kDepth);
    ptx::cp_async_commit();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t a[kRowFragments][4];
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i)
        ptx::ldmatrix_x4(a[i], chunk(s.x[stage], row + i * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < kOutputFragments; j += 2) {
        uint32_t b[4];
        ptx::ldmatrix_x4(
            b, chunk(s.weight[stage], output + j * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) {
          ptx::mma_m16n8k16_bf16(sums[i][j], a[i], b[0], b[1]);
          ptx::mma_m16n8k16_bf16(sums[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kRowFragments; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < kOutputFragments; j += 4) {
        float strip[4][2];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          strip[n][0] = sums[i][j + n][half * 2];
          strip[n][1] = sums[i][j + n][half * 2 + 1];
        }
        store_strip(p.out, tile.row * kSide + row + i * 16 + half * 8 + lane / 4,
                    tile.output * kSide + output + j * 8, strip);
      }
}

template <int kSide, bool kAligned>
cudaError_t launch_tiles(const GemmProblem& p, cudaStream_t stream) {
  const int row_tiles = (p.out.rows + kSide - 1) / kSide, output_tiles = (p.out.outputs + kSide - 1) / kSide;
  return launch(gemm_mma_kernel<kSide, kAligned>, dim3(row_tiles * output_tiles), dim3(kThreads),
                sizeof(Storage<kSide>), stream, p, row_tiles, output_tiles);
}

}  // namespace

cudaError_t launch_gemm_mma(const GemmProblem& p, BlockTile tile, cudaStream_t stream) {
  const bool aligned = p.x_alignment == 16;
  if (tile == BlockTile::kNarrow)
    return aligned ? launch_tiles<64, true>(p, stream) : launch_tiles<64, false>(p, stream);
  return aligned ? launch_tiles<128, true>(p, stream) : launch_tiles<128, false>(p, stream);
}

}  // namespace longhaul::cuda
