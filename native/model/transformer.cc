#include "model/transformer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "model/dora.h"

namespace longhaul {
namespace {

// The shortest bound of a decode pass's heads: below it kernels cost the same.
constexpr int64_t kLeastBucket = 256;

// Recorded passes that are kept: with many adapters there are more combinations than anybody meets again.
constexpr size_t kMostRecorded = 64;

uint64_t id_of(const AdapterWeights* adapter) {
  return adapter == nullptr ? 0 : adapter->id();
}

}  // namespace

Result<std::unique_ptr<Transformer>> Transformer::load(Backend& backend, const std::string& directory,
                                                       const LoadProgress& progress) {
  LONGHAUL_ASSIGN(const ModelConfig config, load_config(directory));
  std::unique_ptr<Transformer> model(new Transformer(backend, config));
  LONGHAUL_ASSIGN(model->stream_, backend.make_stream());
  LONGHAUL_ASSIGN(model->weights_, load_weights(backend, *model->stream_, config, directory, progress));
  return model;
}

KvGeometry kv_geometry(const ModelConfig& config, DType weights_dtype) {
  return {.layers = static_cast<int32_t>(config.layers),
          .kv_heads = static_cast<int32_t>(config.kv_heads),
          .head_dim = static_cast<int32_t>(config.head_dim),
          .dtype = weights_dtype};
}

AdaptedModel Transformer::adapted() const {
  return {.layers = config_.layers,
          .hidden = config_.hidden_size,
          .intermediate = config_.intermediate_size,
          .q_size = config_.heads * config_.head_dim,
          .kv_size = config_.kv_heads * config_.head_dim};
}

Result<std::shared_ptr<const AdapterWeights>> Transformer::bring(const Adapter& adapter) {
  LONGHAUL_TRY(check(adapter, adapted()));
  LONGHAUL_ASSIGN(std::unique_ptr<AdapterWeights> weights,
                  AdapterWeights::load(backend_, *stream_, adapter, weights_.dtype));
  LONGHAUL_TRY(rescale(adapter, *weights));
  return std::shared_ptr<const AdapterWeights>(std::move(weights));
}

Status Transformer::rescale(const Adapter& adapter, AdapterWeights& weights) {
  const AdaptedModel model = adapted();
  for (int64_t l = 0; l < model.layers; ++l) {
    const auto index = static_cast<size_t>(l);
    const LayerWeights& layer = weights_.layers[index];
    const std::pair<const Weight*, const Vector*> products[] = {{&layer.qkv, &layer.qkv_bias},
                                                                {&layer.output, &layer.output_bias},
                                                                {&layer.gate_up, &layer.gate_up_bias},
                                                                {&layer.down, &layer.down_bias}};
    for (int g = 0; g < kProjectionGroups; ++g) {
      const auto group = static_cast<ProjectionGroup>(g);
      const auto& [base, bias] = products[g];
      int64_t first = 0;
      for (int32_t p = 0; p < parts_of(group); ++p) {
        const auto projection = static_cast<Projection>(static_cast<int32_t>(first_of(group)) + p);
        const Tensor& magnitude = adapter.layers[index][projection].magnitude;
        const auto outputs = static_cast<size_t>(model.outputs(projection));
        if (magnitude) {
          const ExpertPart& part = weights.layer(l)[group][static_cast<size_t>(p)];
          LONGHAUL_ASSIGN(const std::vector<float> factor,
                          dora_factor(backend_, *stream_, *base, first, part,
                                      std::span(magnitude.as<const float>(), outputs)));
          // The bias is behind the norm: only the product is rescaled.
          std::vector<float> offset;
          if (bias->tensor) {
            offset.resize(outputs);
            LONGHAUL_TRY(backend_.download(*stream_, offset.data(), bias->tensor.as<const float>() + first,
                                           outputs * sizeof(float)));
            for (size_t n = 0; n < outputs; ++n) offset[n] *= 1 - factor[n];
          }
          LONGHAUL_TRY(weights.rescale(l, projection, factor, offset));
        }
        first += static_cast<int64_t>(outputs);
      }
    }
  }
  return Status();
}

void Transformer::lay_out(Arena& arena, const PageArrays& pages, const PassLimits& limits) {
  const int64_t rows = limits.rows;
  const int64_t logit_rows = std::max(kLogitRows, limits.sequences);
  const DType act = backend_.activation_dtype(weights_.dtype);
  const int64_t q_width = config_.heads * config_.head_dim;
  const int64_t qkv_width = q_width + 2 * config_.kv_heads * config_.head_dim;
  Arena inputs;
  inputs.take(DType::kU8, {limits.sequences * config_.layers * static_cast<int64_t>(sizeof(CacheView))});
  inputs.take(DType::kI32, {rows});
  inputs.take(DType::kI32, {rows});
  inputs_ = arena.take(DType::kU8, {static_cast<int64_t>(inputs.used())});
  cos_ = arena.take(DType::kF32, {rows, config_.head_dim / 2});
  sin_ = arena.take(DType::kF32, {rows, config_.head_dim / 2});
  residual_ = arena.take(DType::kF32, {rows, config_.hidden_size});
  delta_ = arena.take(DType::kF32, {rows, config_.hidden_size});
  normed_ = arena.take(act, {rows, config_.hidden_size});
  qkv_ = arena.take(act, {rows, qkv_width});
  attended_ = arena.take(act, {rows, q_width});
  gate_up_ = arena.take(act, {rows, 2 * config_.intermediate_size});
  mlp_ = arena.take(act, {rows, config_.intermediate_size});
  logits_ = arena.take(DType::kF32, {logit_rows, config_.vocab_size});

  const Ops& ops = backend_.ops();
  const LayerWeights& layer = weights_.layers.front();
  const AttentionArgs attention{.pages = pages,
                                .sequences = limits.sequences,
                                .q = attended_.split_last(config_.head_dim),
                                .out = attended_.split_last(config_.head_dim),
                                .kv_heads = static_cast<int32_t>(config_.kv_heads),
                                .max_length = static_cast<int32_t>(std::max<int64_t>(limits.head_rows, 1))};
  // A decode pass has one row a sequence.
  AttentionArgs decode = attention;
  decode.q = decode.out = attention.q.slice(0, limits.sequences);
  decode.role = RowRole::kDecode;
  size_t bytes = std::max(ops.attention_workspace(attention), ops.attention_workspace(decode));
  for (const GemmArgs& product :
       {GemmArgs{.x = normed_, .weight = &layer.qkv, .out = qkv_},
        GemmArgs{.x = attended_, .weight = &layer.output, .out = delta_},
        GemmArgs{.x = normed_, .weight = &layer.gate_up, .out = gate_up_},
        GemmArgs{.x = mlp_, .weight = &layer.down, .out = delta_},
        GemmArgs{.x = normed_.slice(0, logit_rows), .weight = &weights_.output_embedding(), .out = logits_}}) {
    GemmArgs one = product;
    one.x = product.x.slice(0, std::min(product.x.shape[0], logit_rows));
    one.out = product.out.slice(0, one.x.shape[0]);
    one.role = RowRole::kDecode;
    bytes = std::max({bytes, ops.gemm_workspace(product), ops.gemm_workspace(one)});
  }
  bytes = std::max(
      bytes, experts_.lay_out(arena, backend_,
                              {.rows = rows,
                               .inputs = std::max({config_.hidden_size, q_width, config_.intermediate_size}),
                               .intermediate = config_.intermediate_size,
                               .activation = act},
                              limits.experts));
  workspace_ = {arena.take_bytes(bytes), bytes};
  eviction_ = EvictionScratch::lay_out(
      arena, backend_, pages, static_cast<int32_t>(config_.kv_heads), limits.scored_rows, limits.shared_rows,
      static_cast<int32_t>(limits.observers), static_cast<int32_t>(config_.heads));
}

Status Transformer::prepare(PagePool& pool, const PassLimits& wanted) {
  const PassLimits limits{.rows = std::max({wanted.rows, limits_.rows, wanted.sequences, kLogitRows}),
                          .head_rows = std::max(wanted.head_rows, limits_.head_rows),
                          .scored_rows = std::max(wanted.scored_rows, limits_.scored_rows),
                          .observers = std::max(wanted.observers, limits_.observers),
                          .sequences = std::max(wanted.sequences, limits_.sequences),
                          .shared_rows = std::max(wanted.shared_rows, limits_.shared_rows),
                          .experts = {.experts = std::max(wanted.experts.experts, limits_.experts.experts),
                                      .ranks = std::max(wanted.experts.ranks, limits_.experts.ranks),
                                      .ffn = std::max(wanted.experts.ffn, limits_.experts.ffn)}};
  if (limits == limits_) return Status();

  // Measuring overwrites the tensors, so a refusal has to lay the old memory out again.
  Arena measure;
  lay_out(measure, pool.arrays(), limits);
  Result<Buffer> scratch = backend_.allocate(measure.used(), MemoryUse::kWorkspace);
  if (scratch.ok()) {
    recorded_.clear();  // they point into the old memory
    scratch_ = std::move(scratch.value());
    limits_ = limits;
  }
  if (limits_.rows > 0) {
    Arena arena(scratch_);
    lay_out(arena, pool.arrays(), limits_);
  }
  return scratch.status();
}

Status Transformer::stage(std::span<const Segment> segments) {
  LONGHAUL_ASSERT(static_cast<int64_t>(segments.size()) <= limits_.sequences);
  int64_t rows = 0;
  int64_t most_rows = 1;
  pass_role_ = RowRole::kDecode;
  adapted_rows_.clear();
  for (const Segment& segment : segments) {
    const int32_t count = segment.rows + segment.observers;
    adapted_rows_.push_back({rows, count, segment.adapter});
    LONGHAUL_ASSERT(rows + count <= limits_.rows);
    segment.cache->expect_rows(count);
    most_rows = std::max(most_rows, segment.cache->most_rows());
    if (count != 1 || segment.evict) pass_role_ = RowRole::kBlock;
    rows += count;
  }
  pass_rows_ = rows;
  experts_.set_rows(adapted_rows_);
  if (pass_role_ == RowRole::kDecode) {
    most_rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(most_rows, kLeastBucket))));
  }
  pass_length_ = static_cast<int32_t>(std::min(most_rows, std::max<int64_t>(limits_.head_rows, 1)));

  // One upload brings all: views, then tokens, then positions.
  const int64_t sequences = static_cast<int64_t>(segments.size());
  const int64_t views_bytes = sequences * config_.layers * static_cast<int64_t>(sizeof(CacheView));
  Arena device(inputs_.data);
  views_ = device.take(DType::kU8, {config_.layers, views_bytes / config_.layers});
  tokens_ = device.take(DType::kI32, {rows});
  positions_ = device.take(DType::kI32, {rows});
  host_inputs_.assign(device.used(), 0);
  Arena host(host_inputs_.data());
  char* views = host.take(DType::kU8, {views_bytes}).as<char>();
  int32_t* tokens = host.take(DType::kI32, {rows}).as<int32_t>();
  int32_t* positions = host.take(DType::kI32, {rows}).as<int32_t>();
  int32_t row = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const int32_t count = segment.rows + segment.observers;
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      const CacheView view = segment.cache->view(layer, row, count);
      std::memcpy(views + (layer * sequences + static_cast<int64_t>(s)) * sizeof view, &view, sizeof view);
    }
    std::copy_n(segment.tokens.begin(), count, tokens + row);
    std::copy_n(segment.positions.begin(), count, positions + row);
    row += count;
  }
  return backend_.upload(*stream_, inputs_.data, host_inputs_.data(), host_inputs_.size());
}

Status Transformer::forward(PagePool& pool, std::span<const Segment> segments, PassObserver* observer) {
  LONGHAUL_TRY(stage(segments));
  if (pass_role_ == RowRole::kDecode && observer == nullptr && backend_.can_capture()) {
    LONGHAUL_TRY(replay_layers(pool, segments));
  } else {
    const auto attend = [&](int32_t layer) { return attend_segments(pool, layer, segments, observer); };
    LONGHAUL_TRY(run_layers(std::cref(attend), observer));
  }
  for (const Segment& segment : segments) LONGHAUL_TRY(segment.cache->collect());
  return Status();
}

Status Transformer::replay_layers(PagePool& pool, std::span<const Segment> segments) {
  const void* pages = pool.arrays().k.data;
  auto pass = std::find_if(recorded_.begin(), recorded_.end(), [&](const RecordedPass& recorded) {
    return recorded.segments == segments.size() && recorded.length == pass_length_ && recorded.pages == pages &&
           std::equal(segments.begin(), segments.end(), recorded.adapters.begin(), recorded.adapters.end(),
                      [](const Segment& segment, uint64_t id) { return id_of(segment.adapter) == id; });
  });
  if (pass == recorded_.end()) {
    LONGHAUL_TRY(backend_.begin_capture(*stream_));
    const auto attend = [&](int32_t layer) { return attend_segments(pool, layer, segments, nullptr); };
    const Status status = run_layers(std::cref(attend), nullptr);
    Result<std::unique_ptr<Graph>> graph = backend_.end_capture(*stream_);
    LONGHAUL_TRY(status);
    LONGHAUL_TRY(graph.status());
    std::vector<uint64_t> adapters;
    for (const Segment& segment : segments) adapters.push_back(id_of(segment.adapter));
    if (recorded_.size() >= kMostRecorded) recorded_.erase(recorded_.begin());
    recorded_.push_back({segments.size(), pass_length_, pages, std::move(adapters), std::move(graph.value())});
    pass = recorded_.end() - 1;
  }
  return backend_.replay(*stream_, *pass->graph);
}

Status Transformer::run_layers(const Attend& attend, PassObserver* observer) {
  const int64_t rows = pass_rows_;
  if (rows > 0) {
    LONGHAUL_TRY(
        run(backend_, *stream_,
            EmbedArgs{
                .ids = tokens_.slice(0, rows), .table = &weights_.embedding, .out = residual_.slice(0, rows)}));
    LONGHAUL_TRY(run(backend_, *stream_,
                     RopeTableArgs{.positions = positions_.slice(0, rows),
                                   .frequencies = weights_.rope_frequencies.tensor,
                                   .cos = cos_.slice(0, rows),
                                   .sin = sin_.slice(0, rows)}));
  }
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    LONGHAUL_TRY(attention_block(layer, attend, observer));
    if (rows > 0) LONGHAUL_TRY(mlp_block(layer, observer));
  }
  if (rows > 0) {
    LONGHAUL_TRY(run(backend_, *stream_,
                     RmsNormArgs{.x = residual_.slice(0, rows),
                                 .delta = delta_.slice(0, rows),
                                 .weight = weights_.final_norm.tensor,
                                 .out = normed_.slice(0, rows),
                                 .eps = static_cast<float>(config_.rms_norm_eps)}));
  }
  return Status();
}

Tensor Transformer::queries() const {
  const int64_t width = config_.heads * config_.head_dim;
  return qkv_.slice(0, pass_rows_).narrow(1, 0, width).split_last(config_.head_dim);
}

Tensor Transformer::keys() const {
  const int64_t width = config_.kv_heads * config_.head_dim;
  return qkv_.slice(0, pass_rows_)
      .narrow(1, config_.heads * config_.head_dim, width)
      .split_last(config_.head_dim);
}

Tensor Transformer::values() const {
  const int64_t width = config_.kv_heads * config_.head_dim;
  return qkv_.slice(0, pass_rows_)
      .narrow(1, config_.heads * config_.head_dim + width, width)
      .split_last(config_.head_dim);
}

float Transformer::attention_scale() const {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
}

Status Transformer::attention_block(int32_t layer, const Attend& attend, PassObserver* observer) {
  const LayerWeights& weights = weights_.layers[layer];
  const int64_t rows = pass_rows_;
  if (rows == 0) return attend(layer);
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const Tensor x = residual_.slice(0, rows);
  LONGHAUL_TRY(run(backend_, *stream_,
                   RmsNormArgs{.x = x,
                               .delta = layer == 0 ? Tensor() : delta_.slice(0, rows),
                               .weight = weights.attention_norm.tensor,
                               .out = normed_.slice(0, rows),
                               .eps = eps}));
  if (observer != nullptr) LONGHAUL_TRY(observer->on_hidden(layer, x));
  LONGHAUL_TRY(gemm(normed_.slice(0, rows), weights.qkv, weights.qkv_bias.tensor, qkv_.slice(0, rows)));
  LONGHAUL_TRY(adapt(layer, ProjectionGroup::kQkv, normed_.slice(0, rows), qkv_.slice(0, rows), observer));
  const Tensor q = queries();
  if (config_.qk_norm) {
    const Tensor k = keys();
    LONGHAUL_TRY(
        run(backend_, *stream_, RmsNormArgs{.x = q, .weight = weights.q_norm.tensor, .out = q, .eps = eps}));
    LONGHAUL_TRY(
        run(backend_, *stream_, RmsNormArgs{.x = k, .weight = weights.k_norm.tensor, .out = k, .eps = eps}));
  }
  LONGHAUL_TRY(
      run(backend_, *stream_, RopeArgs{.x = q, .cos = cos_.slice(0, rows), .sin = sin_.slice(0, rows)}));
  LONGHAUL_TRY(attend(layer));
  LONGHAUL_TRY(
      gemm(attended_.slice(0, rows), weights.output, weights.output_bias.tensor, delta_.slice(0, rows)));
  return adapt(layer, ProjectionGroup::kO, attended_.slice(0, rows), delta_.slice(0, rows), observer);
}

Status Transformer::append_rows(PagePool& pool, const CacheView* views, int64_t count) {
  return run(backend_, *stream_,
             AppendArgs{.pages = pool.arrays(),
                        .views = views,
                        .sequences = count,
                        .k = keys(),
                        .v = values(),
                        .positions = positions_.slice(0, pass_rows_),
                        .cos = cos_.slice(0, pass_rows_),
                        .sin = sin_.slice(0, pass_rows_)});
}

Status Transformer::attend_rows(PagePool& pool, const CacheView* views, int64_t count) {
  return run(backend_, *stream_,
             AttentionArgs{.pages = pool.arrays(),
                           .views = views,
                           .sequences = count,
                           .q = queries(),
                           .out = attended_.slice(0, pass_rows_).split_last(config_.head_dim),
                           .kv_heads = static_cast<int32_t>(config_.kv_heads),
                           .scale = attention_scale(),
                           .max_length = pass_length_,
                           .role = pass_role_},
             workspace_);
}

Status Transformer::attend_segments(PagePool& pool, int32_t layer, std::span<const Segment> segments,
                                    PassObserver* observer) {
  const CacheView* views = views_.slice(layer, 1).as<const CacheView>();
  const int64_t count = static_cast<int64_t>(segments.size());
  if (pass_rows_ > 0) {
    LONGHAUL_TRY(append_rows(pool, views, count));
    LONGHAUL_TRY(attend_rows(pool, views, count));
  }
  int64_t row = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    if (segment.evict) {
      const EvictionInput input{.view = views + s,
                                .q = queries().slice(row, segment.rows + segment.observers),
                                .own = segment.own,
                                .layer = layer,
                                .rows = segment.rows,
                                .observers = segment.observers,
                                .scale = attention_scale()};
      LONGHAUL_TRY(evict_layer(backend_, *stream_, pool.arrays(), *segment.policy, input, eviction_, observer));
      if (observer != nullptr) LONGHAUL_TRY(observer->on_evicted(layer));
    }
    row += segment.rows + segment.observers;
  }
  return Status();
}

Status Transformer::mlp_block(int32_t layer, PassObserver* observer) {
  const LayerWeights& weights = weights_.layers[layer];
  const int64_t rows = pass_rows_;
  const Tensor normed = normed_.slice(0, rows), gate_up = gate_up_.slice(0, rows), mlp = mlp_.slice(0, rows);
  const Tensor delta = delta_.slice(0, rows);
  LONGHAUL_TRY(run(backend_, *stream_,
                   RmsNormArgs{.x = residual_.slice(0, rows),
                               .delta = delta_.slice(0, rows),
                               .weight = weights.mlp_norm.tensor,
                               .out = normed_.slice(0, rows),
                               .eps = static_cast<float>(config_.rms_norm_eps)}));
  LONGHAUL_TRY(gemm(normed, weights.gate_up, weights.gate_up_bias.tensor, gate_up));
  LONGHAUL_TRY(adapt(layer, ProjectionGroup::kGateUp, normed, gate_up, observer));
  LONGHAUL_TRY(run(backend_, *stream_, SwigluArgs{.gate_up = gate_up, .out = mlp}));
  if (experts_.any()) {
    LONGHAUL_TRY(experts_.mix_ffn(expert_context(), layer, normed, gate_up, mlp));
    if (observer != nullptr) LONGHAUL_TRY(observer->on_mixed(layer, experts_.routing(rows, 1)));
  }
  LONGHAUL_TRY(gemm(mlp, weights.down, weights.down_bias.tensor, delta));
  if (experts_.any()) LONGHAUL_TRY(experts_.finish_ffn(expert_context(), layer, delta));
  return adapt(layer, ProjectionGroup::kDown, mlp, delta, observer);
}

Status Transformer::adapt(int32_t layer, ProjectionGroup group, const Tensor& x, const Tensor& out,
                          PassObserver* observer) {
  if (!experts_.any()) return Status();
  const AdaptedModel model = adapted();
  std::array<Tensor, kMaxExpertParts> parts;
  int64_t column = 0;
  for (int32_t p = 0; p < parts_of(group); ++p) {
    const int64_t width = model.outputs(static_cast<Projection>(static_cast<int32_t>(first_of(group)) + p));
    parts[static_cast<size_t>(p)] = out.narrow(1, column, width);
    column += width;
  }
  LONGHAUL_TRY(experts_.adapt(expert_context(), layer, group, x, parts));
  if (observer == nullptr) return Status();
  return observer->on_adapted(layer, group, experts_.routing(x.shape[0], parts_of(group)));
}

Status Transformer::gemm(const Tensor& x, const Weight& weight, const Tensor& bias, const Tensor& out) {
  return run(backend_, *stream_,
             GemmArgs{.x = x, .weight = &weight, .bias = bias, .out = out, .role = pass_role_}, workspace_);
}

Result<Tensor> Transformer::logits(int64_t begin, int64_t count) {
  LONGHAUL_ASSERT(count >= 1 && count <= logits_.shape[0] && begin >= 0 && begin + count <= pass_rows_);
  const Tensor out = logits_.slice(0, count);
  LONGHAUL_TRY(run(backend_, *stream_,
                   GemmArgs{.x = normed_.slice(begin, count),
                            .weight = &weights_.output_embedding(),
                            .out = out,
                            .role = RowRole::kDecode},
                   workspace_));
  return out;
}

}  // namespace longhaul
