#include <cmath>
#include <cstring>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {

Status embed(Stream&, const EmbedArgs& a) {
  const Weight& table = *a.table;
  std::vector<double> row(static_cast<size_t>(table.cols));
  for (int64_t i = 0; i < a.ids.shape[0]; ++i) {
    load(table.storage.data(), table.dtype, a.ids.as<int32_t>()[i] * table.cols, table.cols, row.data());
    store_row(a.out, row_at(a.out, i), row);
  }
  return Status();
}

Status rms_norm(Stream&, const RmsNormArgs& a) {
  const int64_t inner = a.x.rank == 3 ? a.x.shape[1] : 1;
  std::vector<double> x, delta, weight;
  load_row(a.weight, 0, weight);
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      const int64_t at = row_at(a.x, i, j);
      load_row(a.x, at, x);
      if (a.delta) {
        load_row(a.delta, row_at(a.delta, i), delta);
        for (size_t d = 0; d < x.size(); ++d) x[d] += delta[d];
        store_row(a.x, at, x);
        // The norm is of the x that later ops will see.
        load_row(a.x, at, x);
      }
      const double mean = dot(x.data(), x.data(), row_length(a.x)) / static_cast<double>(x.size());
      const double factor = 1 / std::sqrt(mean + static_cast<double>(a.eps));
      for (size_t d = 0; d < x.size(); ++d) x[d] *= factor * weight[d];
      store_row(a.out, row_at(a.out, i, j), x);
    }
  }
  return Status();
}

Status gemm(Stream&, const GemmArgs& a, Workspace) {
  const Weight& w = *a.weight;
  std::vector<double> weight(static_cast<size_t>(w.rows * w.cols));
  load(w.storage.data(), w.dtype, 0, w.rows * w.cols, weight.data());
  std::vector<double> bias;
  if (a.bias) load_row(a.bias, 0, bias);
  std::vector<double> x, out(static_cast<size_t>(w.rows));
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    load_row(a.x, row_at(a.x, i), x);
    if (a.accumulate) {
      load_row(a.out, row_at(a.out, i), out);
    } else {
      out.assign(out.size(), 0);
    }
    for (int64_t n = 0; n < w.rows; ++n) {
      double sum = dot(x.data(), weight.data() + n * w.cols, w.cols);
      if (a.bias) sum += bias[static_cast<size_t>(n)];
      out[static_cast<size_t>(n)] += sum;
    }
    store_row(a.out, row_at(a.out, i), out);
  }
  return Status();
}

Status swiglu(Stream&, const SwigluArgs& a) {
  const auto ff = static_cast<size_t>(row_length(a.out));
  std::vector<double> gate_up, out(ff);
  for (int64_t i = 0; i < a.out.shape[0]; ++i) {
    load_row(a.gate_up, row_at(a.gate_up, i), gate_up);
    for (size_t j = 0; j < ff; ++j) {
      const double gate = gate_up[j];
      out[j] = gate / (1 + std::exp(-gate)) * gate_up[ff + j];
    }
    store_row(a.out, row_at(a.out, i), out);
  }
  return Status();
}

Status rope_table(Stream&, const RopeTableArgs& a) {
  const int64_t half = a.frequencies.shape[0];
  for (int64_t i = 0; i < a.positions.shape[0]; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const double angle = a.positions.as<int32_t>()[i] * a.frequencies.as<double>()[j];
      a.cos.as<float>()[i * half + j] = static_cast<float>(std::cos(angle));
      a.sin.as<float>()[i * half + j] = static_cast<float>(std::sin(angle));
    }
  }
  return Status();
}

Status rope(Stream&, const RopeArgs& a) {
  std::vector<double> x;
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    for (int64_t h = 0; h < a.x.shape[1]; ++h) {
      load_row(a.x, row_at(a.x, i, h), x);
      rotate(x, a.cos, a.sin, i);
      store_row(a.x, row_at(a.x, i, h), x);
    }
  }
  return Status();
}

Status gather_rows(Stream&, const GatherRowsArgs& a) {
  const auto size = static_cast<int64_t>(size_of(a.x.dtype));
  for (int64_t i = 0; i < a.index.shape[0]; ++i) {
    const char* from = a.x.as<char>() + row_at(a.x, a.index.as<int32_t>()[i]) * size;
    std::memcpy(a.out.as<char>() + row_at(a.out, i) * size, from, static_cast<size_t>(row_length(a.x) * size));
  }
  return Status();
}

}  // namespace longhaul::reference
