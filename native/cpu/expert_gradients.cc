// Gradients of routers and experts. Every sum runs over its rows in order, whatever the threads.
#include <algorithm>

#include "cpu/backend.h"
#include "cpu/ops.h"
#include "cpu/routing.h"
#include "cpu/row_tasks.h"

namespace longhaul::cpu {
namespace {

// Rows of a partial sum of router_loss: fixed, so that the sum does not depend on threads.
constexpr int64_t kLossRows = 256;

// What one row of a loss weighs in f and P.
double attention(const Tensor& attended, int64_t row) {
  return attended ? static_cast<double>(attended.as<const float>()[row]) : 1.0;
}

const float* floats(const Tensor& t, int64_t i, int64_t j = 0) {
  return static_cast<const float*>(at(t, i, j));
}

}  // namespace

size_t router_loss_workspace(const RouterLossArgs& a) {
  const int64_t chunks = (a.logits.shape[0] + kLossRows - 1) / kLossRows;
  return static_cast<size_t>(chunks * (2 * a.logits.shape[1] + 2)) * sizeof(double);
}

Status router_loss(Stream& stream, const RouterLossArgs& a, Workspace workspace) {
  const int64_t rows = a.logits.shape[0];
  const int experts = static_cast<int>(a.logits.shape[1]);
  const int64_t width = 2 * experts + 2;  // f, P, entropy, attended
  const int64_t chunks = (rows + kLossRows - 1) / kLossRows;
  double* const partial = static_cast<double*>(workspace.data);
  for_rows(stream, chunks, kLossRows * experts * 16, [&](int64_t chunk) {
    double* const sum = partial + chunk * width;
    std::fill_n(sum, width, 0.0);
    for (int64_t row = chunk * kLossRows; row < std::min(rows, (chunk + 1) * kLossRows); ++row) {
      const Route route = route_row(floats(a.logits, row), experts, a.router);
      const double weight = attention(a.attended, row);
      for (int e = 0; e < experts; ++e) {
        sum[e] += weight * route.weights[e];
        sum[experts + e] += weight * route.probabilities[e];
      }
      sum[2 * experts] += route.entropy;
      sum[2 * experts + 1] += weight;
    }
  });
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    for (int64_t i = 0; i < width; ++i) partial[i] += partial[chunk * width + i];
  }
  const double divisor = partial[2 * experts + 1] + (a.attended ? 1e-8 : 0);
  const double entropy = partial[2 * experts] / static_cast<double>(rows);
  double balance = 0;
  for (int64_t i = 0; i < 2 * experts; ++i) {
    partial[i] /= divisor;
    a.usage.as<float>()[i] = static_cast<float>(partial[i]);
  }
  for (int e = 0; e < experts; ++e) balance += experts * partial[e] * partial[experts + e];
  const double loss =
      static_cast<double>(a.entropy_scale) * entropy + static_cast<double>(a.balance_scale) * balance;
  float* const summary = a.summary.as<float>();
  summary[0] = static_cast<float>(loss);
  summary[1] = static_cast<float>(entropy);
  summary[2] = static_cast<float>(balance);
  summary[3] = static_cast<float>(divisor);
  return {};
}

Status route_backward(Stream& stream, const RouteBackwardArgs& a) {
  const int experts = static_cast<int>(a.logits.shape[1]);
  for_rows(stream, a.logits.shape[0], experts * 32, [&](int64_t row) {
    const Route route = route_row(floats(a.logits, row), experts, a.router);
    // Renormalised weights are the softmax of the kept experts; the others' p does not matter to them.
    const double* const through = a.router.renormalize ? route.weights : route.probabilities;
    double of_weights[kMaxExperts] = {}, of_probabilities[kMaxExperts] = {}, dlogits[kMaxExperts] = {};
    if (a.dweights) {
      for (int e = 0; e < experts; ++e) of_weights[e] = static_cast<double>(floats(a.dweights, row)[e]);
    }
    if (a.usage) {
      const float* const usage = a.usage.as<const float>();
      entropy_gradient(route.probabilities, experts, a.router, of_probabilities);
      const double entropy_scale = static_cast<double>(a.entropy_scale) / static_cast<double>(a.loss_rows);
      const double balance_scale = static_cast<double>(a.balance_scale) * experts * attention(a.attended, row) /
                                   static_cast<double>(a.summary.as<const float>()[3]);
      for (int e = 0; e < experts; ++e) {
        of_probabilities[e] =
            entropy_scale * of_probabilities[e] + balance_scale * static_cast<double>(usage[e]);
        of_weights[e] += balance_scale * static_cast<double>(usage[experts + e]);
      }
      add_softmax_gradient(route.probabilities, of_probabilities, experts, dlogits);
    }
    for (int e = 0; e < experts; ++e) {
      if (!route.keeps(e)) of_weights[e] = 0;
    }
    add_softmax_gradient(through, of_weights, experts, dlogits);
    for (int e = 0; e < experts; ++e)
      static_cast<float*>(at(a.dlogits, row))[e] = static_cast<float>(dlogits[e]);
  });
  return {};
}

size_t expert_backward_workspace(const ExpertBackwardArgs& a) {
  return static_cast<size_t>(2 * a.x.shape[0] * a.a.shape[0] * a.a.shape[1]) * sizeof(float);
}

Status expert_backward(Stream& stream, const ExpertBackwardArgs& a, Workspace workspace) {
  const ExpertKernels& kernels = *cpu_stream(stream).kernels().experts;
  const int64_t rows = a.x.shape[0], inputs = a.x.shape[1], outputs = a.dout.shape[1];
  const int64_t experts = a.a.shape[0], rank = a.a.shape[1], depth = experts * rank;
  // scale * w_e * B_e^T dout and scale * w_e * A_e x: what x and dout are multiplied by.
  float* const back = static_cast<float*>(workspace.data);
  float* const forth = back + rows * depth;
  const float* const matrix_a = a.a.as<const float>();
  const float* const matrix_b = a.b.as<const float>();
  for_rows(stream, rows, outputs * depth, [&](int64_t row) {
    const float* const dout = floats(a.dout, row);
    for (int64_t e = 0; e < experts; ++e) {
      const float weight = floats(a.weights, row)[e];
      float* const t = back + row * depth + e * rank;
      float* const u = forth + row * depth + e * rank;
      std::fill_n(t, rank, 0.0f);
      std::fill_n(u, rank, 0.0f);
      float dweight = 0;
      if (weight != 0) {
        const float* b = matrix_b + e * outputs * rank;
        for (int64_t n = 0; n < outputs; ++n, b += rank) {
          for (int64_t k = 0; k < rank; ++k) t[k] += dout[n] * b[k];
        }
        const float* const middle = floats(a.middle, row, e);
        for (int64_t k = 0; k < rank; ++k) {
          dweight += t[k] * middle[k];
          t[k] *= a.scale * weight;
          u[k] = a.scale * weight * middle[k];
        }
      }
      static_cast<float*>(at(a.dweights, row))[e] = a.scale * dweight;
    }
  });
  for_rows(stream, rows, inputs * depth, [&](int64_t row) {
    for (int64_t j = 0; j < depth; ++j) {
      const float factor = back[row * depth + j];
      if (factor == 0) continue;
      kernels.add_scaled(factor, matrix_a + j * inputs, Element::kF32, at(a.dx, row), Element::kF32, true,
                         inputs);
    }
  });
  for_rows(stream, depth, inputs * rows, [&](int64_t j) {
    for (int64_t row = 0; row < rows; ++row) {
      const float factor = back[row * depth + j];
      if (factor == 0) continue;
      kernels.add_scaled(factor, at(a.x, row), Element::kF32, a.da.as<float>() + j * inputs, Element::kF32,
                         true, inputs);
    }
  });
  for_rows(stream, experts * outputs, rank * rows, [&](int64_t i) {
    float* const db = a.db.as<float>() + i * rank;
    const int64_t n = i % outputs;
    for (int64_t row = 0; row < rows; ++row) {
      const float dout = floats(a.dout, row)[n];
      const float* const u = forth + row * depth + i / outputs * rank;
      for (int64_t k = 0; k < rank; ++k) db[k] += dout * u[k];
    }
  });
  return {};
}

Status linear_backward(Stream& stream, const LinearBackwardArgs& a) {
  const ExpertKernels& kernels = *cpu_stream(stream).kernels().experts;
  const int64_t rows = a.dy.shape[0], outputs = a.dy.shape[1];
  if (a.dx) {
    for_rows(stream, rows, outputs * a.dx.shape[1], [&](int64_t row) {
      for (int64_t n = 0; n < outputs; ++n) {
        kernels.add_scaled(floats(a.dy, row)[n], at(a.weight, n), Element::kF32, at(a.dx, row), Element::kF32,
                           true, a.dx.shape[1]);
      }
    });
  }
  if (a.dweight) {
    for_rows(stream, outputs, rows * a.dweight.shape[1], [&](int64_t n) {
      for (int64_t row = 0; row < rows; ++row) {
        kernels.add_scaled(floats(a.dy, row)[n], at(a.x, row), Element::kF32, at(a.dweight, n), Element::kF32,
                           true, a.dweight.shape[1]);
      }
    });
  }
  return {};
}

}  // namespace longhaul::cpu
