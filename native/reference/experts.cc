#include "reference/reference.h"
#include "reference/routing.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

std::vector<double> matrix_of(const Weight& weight) {
  std::vector<double> values(static_cast<size_t>(weight.rows * weight.cols));
  load(weight.storage.data(), weight.dtype, 0, weight.rows * weight.cols, values.data());
  return values;
}

// Calls body(segment, part index) for every part that there is.
template <class Args, class Body>
void for_parts(const Args& a, Body&& body) {
  for (int64_t s = 0; s < a.segment_count; ++s) {
    for (int32_t p = 0; p < a.parts; ++p) {
      if (a.segments[s].parts[static_cast<size_t>(p)].experts > 0) body(a.segments[s], p);
    }
  }
}

// The first `count` columns of part p.
Tensor columns_of(const Tensor& t, int32_t p, int64_t count) {
  Tensor out = t.narrow(1, p, 1).narrow(2, 0, count);
  out.rank = 2;
  out.shape[1] = count;
  out.stride[1] = 1;
  return out;
}

}  // namespace

Status expert_shrink(Stream& stream, const ExpertShrinkArgs& a, Workspace) {
  Status status;
  for_parts(a, [&](const ExpertSegment& segment, int32_t p) {
    const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
    const int64_t begin = segment.row_begin, count = segment.row_count;
    if (part.gate && status.ok()) {
      std::vector<float> entropy(static_cast<size_t>(count));
      RouteArgs router{.x = a.x.slice(begin, count), .gate = part.gate, .router = part.router};
      router.weights = columns_of(a.weights, p, part.experts).slice(begin, count);
      router.entropy = Tensor::dense(entropy.data(), DType::kF32, {count});
      std::vector<float> logits(static_cast<size_t>(count * part.experts));
      router.logits = Tensor::dense(logits.data(), DType::kF32, {count, part.experts});
      status = route(stream, router);
      for (int64_t i = 0; i < count; ++i) {
        if (a.entropy)
          a.entropy.as<float>()[row_at(a.entropy, begin + i) + p] = entropy[static_cast<size_t>(i)];
        for (int32_t e = 0; a.logits && e < part.experts; ++e) {
          a.logits.as<float>()[row_at(a.logits, begin + i, p) + e] =
              logits[static_cast<size_t>(i * part.experts + e)];
        }
      }
    }
    const std::vector<double> matrix = matrix_of(*part.a);
    std::vector<double> x, middle(static_cast<size_t>(part.a->rows));
    for (int64_t i = begin; i < begin + count; ++i) {
      load_row(a.x, row_at(a.x, i), x);
      for (int64_t j = 0; j < part.a->rows; ++j) {
        middle[static_cast<size_t>(j)] = dot(x.data(), matrix.data() + j * part.a->cols, part.a->cols);
      }
      store_row(columns_of(a.middle, p, part.a->rows), row_at(a.middle, i), middle);
    }
  });
  return status;
}

Status expert_expand(Stream&, const ExpertExpandArgs& a, Workspace) {
  for_parts(a, [&](const ExpertSegment& segment, int32_t p) {
    const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
    const Tensor& target = a.out[static_cast<size_t>(p)];
    const std::vector<double> matrix = matrix_of(*part.b);
    std::vector<double> factor, offset, out, middle, weights(static_cast<size_t>(part.experts), 1);
    if (part.factor) load_row(part.factor, 0, factor);
    if (part.offset) load_row(part.offset, 0, offset);
    for (int64_t i = segment.row_begin; i < segment.row_begin + segment.row_count; ++i) {
      if (part.weighted) load_row(columns_of(a.weights, p, part.experts), row_at(a.weights, i), weights);
      load_row(columns_of(a.middle, p, part.b->cols), row_at(a.middle, i), middle);
      load_row(target, row_at(target, i), out);
      for (size_t n = 0; n < out.size(); ++n) {
        double sum = 0;
        for (size_t e = 0; e < weights.size(); ++e) {
          if (weights[e] == 0) continue;
          const size_t first = e * static_cast<size_t>(part.rank);
          sum += weights[e] * dot(matrix.data() + n * middle.size() + first, middle.data() + first, part.rank);
        }
        out[n] += static_cast<double>(part.scale) * sum;
        if (part.factor) out[n] *= factor[n];
        if (part.offset) out[n] += offset[n];
      }
      store_row(target, row_at(target, i), out);
    }
  });
  return Status();
}

Status add_weighted_rows(Stream&, const AddWeightedRowsArgs& a) {
  std::vector<double> x, out(static_cast<size_t>(row_length(a.out)));
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    const double weight = a.weights ? a.weights.as<float>()[row_at(a.weights, i)] : 1.0;
    if (a.accumulate) {
      load_row(a.out, row_at(a.out, i), out);
    } else {
      out.assign(out.size(), 0);
    }
    if (weight != 0) {
      load_row(a.x, row_at(a.x, i), x);
      for (size_t d = 0; d < out.size(); ++d) out[d] += weight * x[d];
    }
    store_row(a.out, row_at(a.out, i), out);
  }
  return Status();
}

}  // namespace longhaul::reference
