// Losses of routers and the gradient of their logits: a warp a row, in double.
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/routing.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = kRouterWarps;
constexpr int kThreads = kRouterThreads;
// Rows of a partial sum: fixed, so that the order of the sum depends on nothing else.
constexpr int kLossRows = 256;

// Of f, P, the entropies and the attended rows.
constexpr int kSums = 2 * kMaxExperts + 2;

struct LossParams {
  const float* logits;
  const float* attended;  // null: all rows are
  double* partial;        // [chunks, kSums]
  float* usage;
  float* summary;
  int64_t rows;
  int experts, chunks;
  float entropy_scale, balance_scale;
  RouterSettings router;
};

struct LossStorage {
  double p[kWarps][kMaxExperts];
  double sums[kWarps][kSums];
};

__global__ void __launch_bounds__(kThreads, 1) sum_rows(const LossParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<LossStorage*>(smem);
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  double usage[kLaneExperts] = {}, probability[kLaneExperts] = {}, entropies = 0, attended = 0;
  const int64_t first = int64_t{blockIdx.x} * kLossRows;
  for (int64_t row = first + warp; row < first + kLossRows && row < p.rows; row += kWarps) {
    RoutedExpert routed[kLaneExperts];
    __syncwarp();  // the row before is read
    entropies += route_warp(p.logits + row * p.experts, p.experts, p.router, storage.p[warp], routed);
    const double weight = p.attended == nullptr ? 1.0 : static_cast<double>(p.attended[row]);
    attended += weight;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
      usage[i] += weight * routed[i].weight;
      probability[i] += weight * routed[i].p;
    }
  }
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    storage.sums[warp][e] = usage[i];
    storage.sums[warp][kMaxExperts + e] = probability[i];
  }
  if (lane == 0) {
    storage.sums[warp][2 * kMaxExperts] = entropies;
    storage.sums[warp][2 * kMaxExperts + 1] = attended;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kSums; i += kThreads) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += storage.sums[w][i];
    p.partial[int64_t{blockIdx.x} * kSums + i] = sum;
  }
}

struct TotalStorage {
  double sums[kSums];
};

// One block.
__global__ void __launch_bounds__(kThreads) finish_loss(const LossParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<TotalStorage*>(smem);
  for (int i = threadIdx.x; i < kSums; i += kThreads) {
    double sum = 0;
    for (int chunk = 0; chunk < p.chunks; ++chunk) sum += p.partial[int64_t{chunk} * kSums + i];
    storage.sums[i] = sum;
  }
  __syncthreads();
  const double divisor = storage.sums[2 * kMaxExperts + 1] + (p.attended == nullptr ? 0 : 1e-8);
  for (int i = threadIdx.x; i < 2 * p.experts; i += kThreads) {
    const int at = i < p.experts ? i : kMaxExperts + i - p.experts;
    p.usage[i] = static_cast<float>(storage.sums[at] / divisor);
  }
  if (threadIdx.x != 0) return;
  const double entropy = storage.sums[2 * kMaxExperts] / static_cast<double>(p.rows);
  double balance = 0;
  for (int e = 0; e < p.experts; ++e)
    balance += p.experts * (storage.sums[e] / divisor) * (storage.sums[kMaxExperts + e] / divisor);
  p.summary[0] = static_cast<float>(static_cast<double>(p.entropy_scale) * entropy +
                                    static_cast<double>(p.balance_scale) * balance);
  p.summary[1] = static_cast<float>(entropy);
  p.summary[2] = static_cast<float>(balance);
  p.summary[3] = static_cast<float>(divisor);
}

struct BackwardParams {
  const float* logits;
  const float* dweights;  // or null
  const float* usage;     // or null: no loss
  const float* summary;
  const float* attended;  // null: all rows are
  float* dlogits;
  int64_t rows, loss_rows;
  int experts;
  float entropy_scale, balance_scale;
  RouterSettings router;
};

struct BackwardStorage {
  double p[kWarps][kMaxExperts];
};

// d entropy / d p of the lane's experts; 0 where p is 0.
__device__ __forceinline__ void entropy_gradient(const RoutedExpert (&routed)[kLaneExperts], int experts,
                                                 const RouterSettings& r, double (&out)[kLaneExperts]) {
  const double q = r.entropy_index, d = q - 1;
  const bool stable = r.entropy_mode == EntropyMode::kStable;
  const bool renyi = r.entropy_type == EntropyType::kRenyi;
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const bool real = static_cast<int>(threadIdx.x % kWarpThreads) + i * kWarpThreads < experts;
    if (renyi && real) sum += pow(routed[i].p + r.entropy_eps, q);
  }
  sum = warp_sum(sum) + kRenyiEps;
  const double divisor = experts == 1 ? 1 : entropy_divisor(experts, r);
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const double t = stable ? routed[i].p : routed[i].p + r.entropy_eps;
    double h = 0;
    if (experts > 1 && t > 0) {
      const double log_t = log(t);
      if (d == 0) {
        h = -(log_t + 1);
      } else if (stable) {
        h = -expm1(d * log_t) / d - exp(d * log_t);
      } else {
        h = -q * exp(d * log_t) / (renyi ? d * sum : d);
      }
    }
    out[i] = h / divisor;
  }
}

__global__ void __launch_bounds__(kThreads) route_backward_rows(const BackwardParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<BackwardStorage*>(smem);
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp;
  if (row >= p.rows) return;  // whole warps
  RoutedExpert routed[kLaneExperts];
  route_warp(p.logits + row * p.experts, p.experts, p.router, storage.p[warp], routed);

  double of_weights[kLaneExperts] = {}, of_probabilities[kLaneExperts] = {};
  const double attended = p.attended == nullptr ? 1.0 : static_cast<double>(p.attended[row]);
  if (p.usage != nullptr) entropy_gradient(routed, p.experts, p.router, of_probabilities);
  double mean = 0, weighted_mean = 0;
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    if (e >= p.experts) continue;
    if (p.dweights != nullptr) of_weights[i] = static_cast<double>(p.dweights[row * p.experts + e]);
    if (p.usage != nullptr) {
      const double balance =
          static_cast<double>(p.balance_scale) * p.experts * attended / static_cast<double>(p.summary[3]);
      of_probabilities[i] =
          static_cast<double>(p.entropy_scale) / static_cast<double>(p.loss_rows) * of_probabilities[i] +
          balance * static_cast<double>(p.usage[e]);
      of_weights[i] += balance * static_cast<double>(p.usage[p.experts + e]);
    }
    if (!routed[i].kept) of_weights[i] = 0;
    // Renormalised weights are the softmax of the kept experts; the others' p does not matter to them.
    weighted_mean += (p.router.renormalize ? routed[i].weight : routed[i].p) * of_weights[i];
    mean += routed[i].p * of_probabilities[i];
  }
  mean = warp_sum(mean);
  weighted_mean = warp_sum(weighted_mean);
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    if (e >= p.experts) continue;
    const double through = p.router.renormalize ? routed[i].weight : routed[i].p;
    p.dlogits[row * p.experts + e] = static_cast<float>(routed[i].p * (of_probabilities[i] - mean) +
                                                        through * (of_weights[i] - weighted_mean));
  }
}

}  // namespace

size_t router_loss_workspace(const RouterLossArgs& a) {
  return static_cast<size_t>(divide_up(a.logits.shape[0], kLossRows) * kSums) * sizeof(double);
}

Status router_loss(Stream& stream, const RouterLossArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.logits.shape[0];
  const int64_t chunks = divide_up(rows, kLossRows);
  const LossParams params{a.logits.as<float>(),
                          a.attended.as<float>(),
                          static_cast<double*>(workspace.data),
                          a.usage.as<float>(),
                          a.summary.as<float>(),
                          rows,
                          static_cast<int>(a.logits.shape[1]),
                          static_cast<int>(chunks),
                          a.entropy_scale,
                          a.balance_scale,
                          a.router};
  const cudaError_t error =
      launch(sum_rows, grid_of(chunks), dim3(kThreads), sizeof(LossStorage), cuda.handle(), params);
  LONGHAUL_TRY(cuda.launched(error, "router_loss"));
  return cuda.launched(
      launch(finish_loss, grid_of(1), dim3(kThreads), sizeof(TotalStorage), cuda.handle(), params),
      "router_loss");
}

Status route_backward(Stream& stream, const RouteBackwardArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.logits.shape[0];
  if (rows == 0) return {};
  const BackwardParams params{a.logits.as<float>(),
                              a.dweights.as<float>(),
                              a.usage.as<float>(),
                              a.summary.as<float>(),
                              a.attended.as<float>(),
                              a.dlogits.as<float>(),
                              rows,
                              a.loss_rows,
                              static_cast<int>(a.logits.shape[1]),
                              a.entropy_scale,
                              a.balance_scale,
                              a.router};
  return cuda.launched(launch(route_backward_rows, grid_of(divide_up(rows, kWarps)), dim3(kThreads),
                              sizeof(BackwardStorage), cuda.handle(), params),
                       "route_backward");
}

}  // namespace longhaul::cuda
