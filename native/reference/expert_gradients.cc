#include <cmath>

#include "reference/reference.h"
#include "reference/routing.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

double attention(const Tensor& attended, int64_t row) {
  return attended ? attended.as<float>()[row] : 1.0;
}

}  // namespace

Status router_loss(Stream&, const RouterLossArgs& a, Workspace) {
  const int64_t rows = a.logits.shape[0];
  const auto experts = static_cast<size_t>(a.logits.shape[1]);
  std::vector<double> logits, usage(2 * experts);
  double entropy = 0, attended = 0;
  for (int64_t i = 0; i < rows; ++i) {
    load_row(a.logits, row_at(a.logits, i), logits);
    const Route row = route_row(logits, a.router);
    entropy += row.entropy;
    attended += attention(a.attended, i);
    for (size_t e = 0; e < experts; ++e) {
      usage[e] += attention(a.attended, i) * row.weights[e];
      usage[experts + e] += attention(a.attended, i) * row.probabilities[e];
    }
  }
  entropy /= static_cast<double>(rows);
  const double divisor = a.attended ? attended + 1e-8 : attended;
  for (double& value : usage) value /= divisor;
  const double balance =
      static_cast<double>(experts) * dot(usage.data(), usage.data() + experts, static_cast<int64_t>(experts));
  const double loss =
      static_cast<double>(a.entropy_scale) * entropy + static_cast<double>(a.balance_scale) * balance;
  store(a.usage.data, DType::kF32, 0, static_cast<int64_t>(usage.size()), usage.data());
  store_row(a.summary, 0, {loss, entropy, balance, divisor});
  return Status();
}

Status route_backward(Stream&, const RouteBackwardArgs& a) {
  const auto experts = static_cast<size_t>(a.logits.shape[1]);
  std::vector<double> logits, dweights, usage(2 * experts), summary;
  if (a.usage) {
    load(a.usage.data, DType::kF32, 0, static_cast<int64_t>(usage.size()), usage.data());
    load_row(a.summary, 0, summary);
  }
  for (int64_t i = 0; i < a.logits.shape[0]; ++i) {
    load_row(a.logits, row_at(a.logits, i), logits);
    const Route row = route_row(logits, a.router);
    std::vector<double> dlogits(experts);
    if (a.dweights) {
      load_row(a.dweights, row_at(a.dweights, i), dweights);
      for (size_t e = 0; e < experts; ++e) {
        if (!row.kept[e]) dweights[e] = 0;
      }
      // Renormalised weights are the softmax of the kept experts; the others' p does not matter to them.
      dlogits = softmax_gradient(a.router.renormalize ? row.weights : row.probabilities, dweights);
    }
    if (a.usage) {
      const std::vector<double> entropy = entropy_gradient(row.probabilities, a.router);
      std::vector<double> gradient(experts);
      for (size_t e = 0; e < experts; ++e) {
        gradient[e] = static_cast<double>(a.entropy_scale) / static_cast<double>(a.loss_rows) * entropy[e];
      }
      const double scale = static_cast<double>(a.balance_scale) * static_cast<double>(experts) *
                           attention(a.attended, i) / summary[3];
      // f is the mean of the weights: where they are renormalised, their gradient is another one than p's.
      std::vector<double> through_weights(experts);
      for (size_t e = 0; e < experts; ++e) {
        gradient[e] += scale * usage[e];
        through_weights[e] = row.kept[e] ? scale * usage[experts + e] : 0;
      }
      const std::vector<double> first = softmax_gradient(row.probabilities, gradient);
      const std::vector<double> second =
          softmax_gradient(a.router.renormalize ? row.weights : row.probabilities, through_weights);
      for (size_t e = 0; e < experts; ++e) dlogits[e] += first[e] + second[e];
    }
    store_row(a.dlogits, row_at(a.dlogits, i), dlogits);
  }
  return Status();
}

Status expert_backward(Stream&, const ExpertBackwardArgs& a, Workspace) {
  const int64_t rows = a.x.shape[0], inputs = a.x.shape[1], outputs = a.dout.shape[1];
  const int64_t experts = a.a.shape[0], rank = a.a.shape[1];
  const double scale = static_cast<double>(a.scale);
  std::vector<double> x, dout, dx, middle(static_cast<size_t>(rank)), t(static_cast<size_t>(rank));
  std::vector<double> matrix_a(static_cast<size_t>(a.a.elements())),
      matrix_b(static_cast<size_t>(a.b.elements()));
  std::vector<double> da(matrix_a.size()), db(matrix_b.size());
  load(a.a.data, DType::kF32, 0, a.a.elements(), matrix_a.data());
  load(a.b.data, DType::kF32, 0, a.b.elements(), matrix_b.data());
  load(a.da.data, DType::kF32, 0, a.da.elements(), da.data());
  load(a.db.data, DType::kF32, 0, a.db.elements(), db.data());
  for (int64_t i = 0; i < rows; ++i) {
    load_row(a.x, row_at(a.x, i), x);
    load_row(a.dout, row_at(a.dout, i), dout);
    load_row(a.dx, row_at(a.dx, i), dx);
    for (int64_t e = 0; e < experts; ++e) {
      float& dweight = a.dweights.as<float>()[row_at(a.dweights, i) + e];
      const double weight = a.weights.as<float>()[row_at(a.weights, i) + e];
      dweight = 0;
      if (weight == 0) continue;
      load(a.middle.data, DType::kF32, row_at(a.middle, i, e), rank, middle.data());
      double sum = 0;
      for (int64_t k = 0; k < rank; ++k) {
        double& back = t[static_cast<size_t>(k)];
        const double u = middle[static_cast<size_t>(k)];
        back = 0;
        for (int64_t n = 0; n < outputs; ++n) {
          const auto at = static_cast<size_t>((e * outputs + n) * rank + k);
          back += matrix_b[at] * dout[static_cast<size_t>(n)];
          db[at] += scale * weight * dout[static_cast<size_t>(n)] * u;
        }
        sum += back * u;
        for (int64_t d = 0; d < inputs; ++d) {
          const auto at = static_cast<size_t>((e * rank + k) * inputs + d);
          da[at] += scale * weight * back * x[static_cast<size_t>(d)];
          dx[static_cast<size_t>(d)] += scale * weight * back * matrix_a[at];
        }
      }
      dweight = static_cast<float>(scale * sum);
    }
    store_row(a.dx, row_at(a.dx, i), dx);
  }
  store(a.da.data, DType::kF32, 0, a.da.elements(), da.data());
  store(a.db.data, DType::kF32, 0, a.db.elements(), db.data());
  return Status();
}

Status linear_backward(Stream&, const LinearBackwardArgs& a) {
  const int64_t rows = a.dy.shape[0], outputs = a.dy.shape[1];
  std::vector<double> x, dy, row;
  for (int64_t i = 0; a.dx && i < rows; ++i) {
    load_row(a.dy, row_at(a.dy, i), dy);
    load_row(a.dx, row_at(a.dx, i), row);
    std::vector<double> weight;
    for (int64_t n = 0; n < outputs; ++n) {
      load_row(a.weight, row_at(a.weight, n), weight);
      for (size_t d = 0; d < row.size(); ++d) row[d] += dy[static_cast<size_t>(n)] * weight[d];
    }
    store_row(a.dx, row_at(a.dx, i), row);
  }
  for (int64_t n = 0; a.dweight && n < outputs; ++n) {
    load_row(a.dweight, row_at(a.dweight, n), row);
    for (int64_t i = 0; i < rows; ++i) {
      load_row(a.dy, row_at(a.dy, i), dy);
      load_row(a.x, row_at(a.x, i), x);
      for (size_t d = 0; d < row.size(); ++d) row[d] += dy[static_cast<size_t>(n)] * x[d];
    }
    store_row(a.dweight, row_at(a.dweight, n), row);
  }
  return Status();
}

}  // namespace longhaul::reference
