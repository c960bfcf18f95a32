// Blocks of rows in f32 arithmetic, for checkpoints that are not bf16: 256 threads, a square of sums each.
#include "cuda/gemm_epilogue.cuh"
#include "cuda/gemm_raster.cuh"
#include "cuda/gemm_simt.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
// Of K a stage: what a thread holds of the next stage beside its sums must fit its registers.
template <int kSide>
constexpr int kDepth = kSide == 128 ? 8 : 16;

// Both tiles with K outermost, so that a thread reads four neighbours of a tile at once.
template <int kSide>
struct Storage {
  static constexpr int kPitch = kSide + 4;
  float x[2][kDepth<kSide>][kPitch];
  float weight[2][kDepth<kSide>][kPitch];
};

// What one thread brings of a tile of kSide rows: kCount neighbours of one row.
template <int kSide>
struct Share {
  static constexpr int kCount = kSide * kDepth<kSide> / kThreads;
  int row = threadIdx.x / (kDepth<kSide> / kCount);
  int column = threadIdx.x % (kDepth<kSide> / kCount) * kCount;
};

template <int kSide>
__device__ __forceinline__ void put(float (&tile)[kDepth<kSide>][Storage<kSide>::kPitch],
                                    const Share<kSide>& share, const float (&values)[Share<kSide>::kCount]) {
#pragma unroll
  for (int i = 0; i < Share<kSide>::kCount; ++i) tile[share.column + i][share.row] = values[i];
}

// Element i of a thread's side of the square is at this place in the tile: quarters of 64 apart, so that a warp
// reads neighbouring lines of shared memory.
__device__ __forceinline__ int place(int thread, int i) {
  return i / 4 * 64 + thread * 4 + i % 4;
}

template <int kCount>
__device__ __forceinline__ void take(const float* line, int thread, float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(line + place(thread, i));
    values[i] = v.x;
    values[i + 1] = v.y;
    values[i + 2] = v.z;
    values[i + 3] = v.w;
  }
}

template <class X, class W, int kSide>
__global__ void __launch_bounds__(kThreads, kSide == 128 ? 2 : 4)
    gemm_simt_kernel(GemmProblem p, int row_tiles, int output_tiles) {
  constexpr int kSquare = kSide / 16, kCount = Share<kSide>::kCount;
  DYNAMIC_SMEM(raw);
  auto& s = *reinterpret_cast<Storage<kSide>*>(raw);
  const TileIndex tile = tile_at(blockIdx.x, row_tiles, output_tiles);
  const int first_row = tile.row * kSide, first_output = tile.output * kSide;
  const int across = threadIdx.x % 16, down = threadIdx.x / 16;
  const int steps = (p.cols + kDepth<kSide> - 1) / kDepth<kSide>;

  // Rows past the end read the last one again and are not stored.
  const Share<kSide> share;
  const X* x = static_cast<const X*>(p.x) + min(first_row + share.row, p.out.rows - 1) * p.x_stride;
  const W* weight = static_cast<const W*>(p.weight) +
                    min(first_output + share.row, p.out.outputs - 1) * p.pitch + share.column;
  const bool aligned = p.x_alignment == 16;

  float from_x[kCount], from_weight[kCount];
  load_x_floats(x, share.column, p.cols, aligned, from_x);
  load_floats(weight, from_weight);
  float sums[kSquare][kSquare] = {};
  for (int step = 0; step < steps; ++step) {
    const int stage = step % 2;
    put<kSide>(s.x[stage], share, from_x);
    put<kSide>(s.weight[stage], share, from_weight);
    __syncthreads();  // this stage is there; who passed has left the other one, which is written next
    if (step + 1 < steps) {
      const int k = (step + 1) * kDepth<kSide>;
      load_x_floats(x, k + share.column, p.cols, aligned, from_x);
      load_floats(weight + k, from_weight);
    }
#pragma unroll
    for (int k = 0; k < kDepth<kSide>; ++k) {
      float a[kSquare], b[kSquare];
      take(s.x[stage][k], down, a);
      take(s.weight[stage][k], across, b);
#pragma unroll
      for (int i = 0; i < kSquare; ++i)
#pragma unroll
        for (int j = 0; j < kSquare; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
  }

#pragma unroll
  for (int i = 0; i < kSquare; ++i) {
    const int row = first_row + place(down, i);
    if (row >= p.out.rows) continue;
#pragma unroll
    for (int j = 0; j < kSquare; j += 2)
      store_sums(p.out, row, first_output + place(across, j), sums[i][j], sums[i][j + 1]);
  }
}

template <int kSide>
cudaError_t launch_tiles(const GemmProblem& p, cudaStream_t stream) {
  return visit_operands(p, [&](auto x, auto weight) {
    using X = typename decltype(x)::Type;
    using W = typename decltype(weight)::Type;
    const int64_t row_tiles = divide_up(p.out.rows, kSide), output_tiles = divide_up(p.out.outputs, kSide);
    return launch(gemm_simt_kernel<X, W, kSide>, grid_of(row_tiles * output_tiles), dim3(kThreads),
                  sizeof(Storage<kSide>), stream, p, row_tiles, output_tiles);
  });
}

}  // namespace

cudaError_t launch_gemm_simt(const GemmProblem& p, BlockTile tile, cudaStream_t stream) {
  return tile == BlockTile::kNarrow ? launch_tiles<64>(p, stream) : launch_tiles<128>(p, stream);
}

}  // namespace longhaul::cuda
