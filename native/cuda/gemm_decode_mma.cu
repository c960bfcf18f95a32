// Decode, bf16 x bf16: bound by reading the weight once. The weight is the A operand of mma.sync, 16 outputs a
// panel, and goes from memory straight to registers; x is B, 8 rows a fragment, most of them zeros for one
// sequence, which costs nothing while memory is the limit.
//
// A lane's operands of one mma are two pairs of K apart from each other; because both operands may permute K
// alike, a lane reads 16 neighbouring bytes and they serve two mma. One step is 32 of K that way.
#include "cuda/gemm_epilogue.cuh"
#include "cuda/gemm_problem.h"
#include "cuda/ptx.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kPanel = 16;
constexpr int kStep = 32;  // of K
constexpr int kTurn = 4;   // steps that a warp takes before it is the next warp's turn

__device__ __forceinline__ Bytes16 zeros16() {
  return make_uint4(0, 0, 0, 0);
}

// x[row][k..k + 8), zeros past its end.
template <bool kAligned>
__device__ __forceinline__ Bytes16 load_x(const GemmProblem& p, int row, int k) {
  if (row >= p.out.rows) return zeros16();
  const auto* from = static_cast<const uint16_t*>(p.x) + row * p.x_stride + k;
  if constexpr (kAligned) {
    return k < p.cols ? load16(from) : zeros16();
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = k + 2 * i < p.cols ? from[2 * i] : 0,
                     high = k + 2 * i + 1 < p.cols ? from[2 * i + 1] : 0;
      words[i] = low | high << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// Sums of one block: kSplits warps share K turn by turn, each has kPanels panels x kFragments fragments of 8
// rows.
template <int kSplits, int kPanels, int kFragments>
struct Storage {
  static constexpr int kOutputs = kPanels * kPanel, kRows = kFragments * 8;
  static constexpr int kPitch = kOutputs + 4;  // a warp's stores meet every bank once
  float sums[kSplits][kRows * kPitch];
};

template <int kSplits, int kPanels, int kFragments, bool kAligned>
__global__ void __launch_bounds__(kSplits * 32) gemm_decode_mma_kernel(GemmProblem p) {
  using S = Storage<kSplits, kPanels, kFragments>;
  // About eight weight loads of 16 bytes are in flight in each lane.
  constexpr int kBatch = kPanels * kFragments >= 4 ? 2 : kTurn / kPanels;
  DYNAMIC_SMEM(raw);
  auto& s = *reinterpret_cast<S*>(raw);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
  const int first_output = blockIdx.x * S::kOutputs, first_row = blockIdx.y * S::kRows;
  const int steps = (p.cols + kStep - 1) / kStep;

  // Outputs past the end read the last one again; their sums are not stored.
  const uint16_t* weight[kPanels * 2];
#pragma unroll
  for (int i = 0; i < kPanels * 2; ++i) {
    const int output = min(first_output + i * 8 + group, p.out.outputs - 1);
    weight[i] = static_cast<const uint16_t*>(p.weight) + output * p.pitch + quarter * 8;
  }
  float sums[kPanels][kFragments][4] = {};
  for (int turn = warp * kTurn; turn < steps; turn += kSplits * kTurn) {
#pragma unroll
    for (int batch = 0; batch < kTurn; batch += kBatch) {
      Bytes16 w[kBatch][kPanels * 2], x[kBatch][kFragments];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int step = turn + batch + i;
#pragma unroll
        for (int j = 0; j < kPanels * 2; ++j)
          w[i][j] = step < steps ? ptx::load16_once(weight[j] + step * kStep) : zeros16();
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
#pragma unroll
        for (int j = 0; j < kFragments; ++j)
          x[i][j] = load_x<kAligned>(p, first_row + j * 8 + group, (turn + batch + i) * kStep + quarter * 8);
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
#pragma unroll
        for (int m = 0; m < kPanels; ++m) {
          const Bytes16 upper = w[i][2 * m], lower = w[i][2 * m + 1];
          const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
          const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
          for (int n = 0; n < kFragments; ++n) {
            ptx::mma_m16n8k16_bf16(sums[m][n], first, x[i][n].x, x[i][n].y);
            ptx::mma_m16n8k16_bf16(sums[m][n], second, x[i][n].z, x[i][n].w);
          }
        }
    }
  }

#pragma unroll
  for (int m = 0; m < kPanels; ++m)
#pragma unroll
    for (int n = 0; n < kFragments; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s.sums[warp][(n * 8 + quarter * 2 + i % 2) * S::kPitch + m * kPanel + group + i / 2 * 8] =
            sums[m][n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < S::kRows * S::kOutputs; i += kSplits * 32) {
    const int row = i / S::kOutputs, output = i % S::kOutputs;
    if (first_row + row >= p.out.rows || first_output + output >= p.out.outputs) continue;
    float sum = 0;
    for (int split = 0; split < kSplits; ++split) sum += s.sums[split][row * S::kPitch + output];
    store_sum(p.out, first_row + row, first_output + output, sum);
  }
}

template <int kSplits, int kPanels, int kFragments>
cudaError_t launch_fragments(const GemmProblem& p, cudaStream_t stream) {
  using S = Storage<kSplits, kPanels, kFragments>;
  const dim3 grid((p.out.outputs + S::kOutputs - 1) / S::kOutputs, (p.out.rows + S::kRows - 1) / S::kRows);
  const bool aligned = p.x_alignment == 16 && p.cols % 8 == 0;
  return launch(aligned ? gemm_decode_mma_kernel<kSplits, kPanels, kFragments, true>
                        : gemm_decode_mma_kernel<kSplits, kPanels, kFragments, false>,
                grid, dim3(kSplits * 32), sizeof(S), stream, p);
}

// One fragment or four: fragments do not see each other, so a row's bits are the same in both.
template <int kSplits, int kPanels>
cudaError_t launch_shape(const GemmProblem& p, cudaStream_t stream) {
  return p.out.rows <= 8 ? launch_fragments<kSplits, kPanels, 1>(p, stream)
                         : launch_fragments<kSplits, kPanels, 4>(p, stream);
}

}  // namespace

cudaError_t launch_gemm_decode_mma(const GemmProblem& p, DecodeShape shape, cudaStream_t stream) {
  if (shape.splits == 16) return launch_shape<16, 1>(p, stream);
  return shape.panels == 1 ? launch_shape<8, 1>(p, stream) : launch_shape<8, 2>(p, stream);
}

}  // namespace longhaul::cuda
