#include "mole/adapter_weights.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <span>

namespace longhaul {
namespace {

std::atomic<uint64_t> g_adapters{0};

template <class T>
void widen(const Tensor& from, int64_t begin, int64_t count, float* to) {
  const T* values = from.as<const T>() + begin;
  for (int64_t i = 0; i < count; ++i) to[i] = to_f32(values[i]);
}

// Elements [begin, begin + count) of a dense tensor of f32, bf16 or f16.
std::vector<float> floats(const Tensor& from, int64_t begin, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  if (from.dtype == DType::kBf16) {
    widen<Bf16>(from, begin, count, values.data());
  } else if (from.dtype == DType::kF16) {
    widen<F16>(from, begin, count, values.data());
  } else {
    widen<float>(from, begin, count, values.data());
  }
  return values;
}

template <class T>
std::vector<char> narrow(const std::vector<float>& values) {
  std::vector<char> bytes(values.size() * sizeof(T));
  T* to = reinterpret_cast<T*>(bytes.data());
  for (size_t i = 0; i < values.size(); ++i) to[i] = from_f32<T>(values[i]);
  return bytes;
}

}  // namespace

Projection first_of(ProjectionGroup group) {
  constexpr Projection kFirst[] = {Projection::kQ, Projection::kO, Projection::kGate, Projection::kDown};
  return kFirst[static_cast<size_t>(group)];
}

int32_t parts_of(ProjectionGroup group) {
  constexpr int32_t kParts[] = {3, 1, 2, 1};
  return kParts[static_cast<size_t>(group)];
}

bool LayerAdapterWeights::adapts(ProjectionGroup g) const {
  return std::any_of((*this)[g].begin(), (*this)[g].end(),
                     [](const ExpertPart& part) { return part.experts > 0; });
}

AdapterWeights::AdapterWeights(Backend& backend, Stream& stream, DType dtype)
    : backend_(backend), stream_(stream), dtype_(dtype), id_(++g_adapters) {}

Result<std::unique_ptr<AdapterWeights>> AdapterWeights::load(Backend& backend, Stream& stream,
                                                             const Adapter& adapter, DType dtype) {
  try {
    std::unique_ptr<AdapterWeights> weights(new AdapterWeights(backend, stream, dtype));
    for (const LayerAdapter& layer : adapter.layers) LONGHAUL_TRY(weights->add_layer(adapter, layer));
    return weights;
  } catch (const std::bad_alloc&) {
    return out_of_memory("the process has no memory left to load an adapter");
  }
}

Status AdapterWeights::add_layer(const Adapter& adapter, const LayerAdapter& from) {
  LayerAdapterWeights& to = layers_.emplace_back();
  for (int g = 0; g < kProjectionGroups; ++g) {
    const auto group = static_cast<ProjectionGroup>(g);
    if (from.ffn_router && group >= ProjectionGroup::kGateUp) continue;
    for (int32_t p = 0; p < parts_of(group); ++p) {
      const ProjectionAdapter& projection =
          from.projections[static_cast<size_t>(first_of(group)) + static_cast<size_t>(p)];
      if (!projection.present()) continue;
      ExpertPart& part = to.groups[static_cast<size_t>(g)][static_cast<size_t>(p)];
      part = {.experts = projection.experts, .rank = projection.rank, .scale = projection.scale};
      LONGHAUL_ASSIGN(part.a, pack_a(projection, 0, projection.experts));
      LONGHAUL_ASSIGN(part.b, pack_b(projection, 0, projection.experts));
      if (projection.router) {
        part.weighted = true;
        part.router = adapter.router;
        LONGHAUL_ASSIGN(part.gate, upload(projection.router.as<const float>(),
                                          {projection.router.shape[0], projection.router.shape[1]}));
      }
    }
  }
  return from.ffn_router ? add_ffn(adapter, from, to) : Status();
}

Status AdapterWeights::add_ffn(const Adapter& adapter, const LayerAdapter& from, LayerAdapterWeights& to) {
  ExpertFfn& ffn = to.ffn;
  ffn.experts = static_cast<int32_t>(from.ffn_router.shape[0]);
  ffn.router = adapter.router;
  ffn.expand.resize(static_cast<size_t>(ffn.experts));
  ffn.down_shrink.resize(static_cast<size_t>(ffn.experts));
  limits_.ffn = 1;
  for (size_t p = 0; p < 2; ++p) {
    const ProjectionAdapter& projection = from.projections[static_cast<size_t>(Projection::kGate) + p];
    if (!projection.present()) continue;
    ffn.shrink[p] = {.experts = projection.experts, .rank = projection.rank, .scale = projection.scale};
    LONGHAUL_ASSIGN(ffn.shrink[p].a, pack_a(projection, 0, projection.experts));
    for (int64_t e = 0; e < ffn.experts; ++e) {
      ExpertPart& part = ffn.expand[static_cast<size_t>(e)][p];
      part = {.experts = 1, .rank = projection.rank, .scale = projection.scale};
      LONGHAUL_ASSIGN(part.b, pack_b(projection, e, 1));
    }
  }
  const ProjectionAdapter& down = from[Projection::kDown];
  if (down.present()) {
    for (int64_t e = 0; e < ffn.experts; ++e) {
      ExpertPart& part = ffn.down_shrink[static_cast<size_t>(e)];
      part = {.experts = 1, .rank = down.rank, .scale = down.scale};
      LONGHAUL_ASSIGN(part.a, pack_a(down, e, 1));
    }
    ffn.down_expand = {.experts = down.experts, .rank = down.rank, .scale = down.scale, .weighted = true};
    LONGHAUL_ASSIGN(ffn.down_expand.b, pack_b(down, 0, down.experts));
  }
  limits_.experts = std::max<int64_t>(limits_.experts, ffn.experts);
  LONGHAUL_ASSIGN(ffn.gate, upload(from.ffn_router.as<const float>(),
                                   {from.ffn_router.shape[0], from.ffn_router.shape[1]}));
  return Status();
}

Result<const Weight*> AdapterWeights::pack_a(const ProjectionAdapter& from, int64_t begin, int64_t count) {
  const int64_t rank = from.rank, inputs = from.a.shape[2];
  limits_.experts = std::max<int64_t>(limits_.experts, from.experts);
  limits_.ranks = std::max<int64_t>(limits_.ranks, from.experts * rank);
  return pack(floats(from.a, begin * rank * inputs, count * rank * inputs), count * rank, inputs);
}

Result<const Weight*> AdapterWeights::pack_b(const ProjectionAdapter& from, int64_t begin, int64_t count) {
  const int64_t outputs = from.b.shape[1], rank = from.rank;
  const std::vector<float> by_expert = floats(from.b, begin * outputs * rank, count * outputs * rank);
  std::vector<float> by_output(by_expert.size());
  for (int64_t e = 0; e < count; ++e) {
    for (int64_t n = 0; n < outputs; ++n) {
      std::copy_n(by_expert.data() + (e * outputs + n) * rank, rank, by_output.data() + (n * count + e) * rank);
    }
  }
  return pack(by_output, outputs, count * rank);
}

Result<const Weight*> AdapterWeights::pack(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<char> bytes = dtype_ == DType::kBf16  ? narrow<Bf16>(values)
                            : dtype_ == DType::kF16 ? narrow<F16>(values)
                                                    : narrow<float>(values);
  const Tensor host = Tensor::dense(bytes.data(), dtype_, {rows, cols});
  LONGHAUL_ASSIGN(Weight weight, backend_.pack(std::span(&host, 1)));
  bytes_ += static_cast<int64_t>(weight.storage.bytes());
  return &weights_.emplace_back(std::move(weight));
}

Result<Tensor> AdapterWeights::upload(const float* values, std::initializer_list<int64_t> shape) {
  Tensor tensor = Tensor::dense(nullptr, DType::kF32, shape);
  const auto bytes = static_cast<size_t>(tensor.bytes());
  LONGHAUL_ASSIGN(Buffer buffer, backend_.allocate(bytes, MemoryUse::kWeights));
  LONGHAUL_TRY(backend_.upload(stream_, buffer.data(), values, bytes));
  bytes_ += static_cast<int64_t>(buffer.bytes());
  tensor.data = buffers_.emplace_back(std::move(buffer)).data();
  return tensor;
}

Status AdapterWeights::rescale(int64_t layer, Projection projection, std::span<const float> factor,
                               std::span<const float> offset) {
  for (int g = 0; g < kProjectionGroups; ++g) {
    const auto group = static_cast<ProjectionGroup>(g);
    const int32_t p = static_cast<int32_t>(projection) - static_cast<int32_t>(first_of(group));
    if (p < 0 || p >= parts_of(group)) continue;
    ExpertPart& part =
        layers_[static_cast<size_t>(layer)].groups[static_cast<size_t>(g)][static_cast<size_t>(p)];
    LONGHAUL_ASSERT(part.experts == 1 && static_cast<int64_t>(factor.size()) == part.b->rows);
    LONGHAUL_ASSIGN(part.factor, upload(factor.data(), {part.b->rows}));
    if (!offset.empty()) {
      LONGHAUL_ASSIGN(part.offset, upload(offset.data(), {part.b->rows}));
    }
  }
  return Status();
}

}  // namespace longhaul
