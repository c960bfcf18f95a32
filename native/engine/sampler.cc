#include "engine/sampler.h"

#include <algorithm>
#include <cstring>

namespace longhaul {

SeenTokens::SeenTokens(int64_t vocab, std::span<const int32_t> tokens)
    : bits_(static_cast<size_t>((vocab + 7) / 8)) {
  for (int32_t token : tokens) add(token);
}

Result<std::unique_ptr<Sampler>> Sampler::create(Backend& backend, Stream& stream, int64_t vocab) {
  std::unique_ptr<Sampler> sampler(new Sampler(backend, stream, vocab));
  LONGHAUL_TRY(sampler->prepare(1));
  return sampler;
}

Sampler::Memory Sampler::lay_out(Arena& arena, int64_t rows) const {
  Memory memory{.seen = arena.take(DType::kU8, {rows, (vocab_ + 7) / 8}),
                .ids = arena.take(DType::kI32, {rows}),
                .params = arena.take(DType::kU8, {rows * static_cast<int64_t>(sizeof(SampleParams))}),
                .workspace = {}};
  const size_t bytes =
      backend_.ops().sample_workspace({.logits = Tensor::dense(nullptr, DType::kF32, {rows, vocab_})});
  memory.workspace = {arena.take_bytes(bytes), bytes};
  return memory;
}

Status Sampler::prepare(int64_t rows) {
  if (buffer_.data() != nullptr && rows <= this->rows()) return Status();
  Arena measure;
  lay_out(measure, rows);
  LONGHAUL_ASSIGN(Buffer buffer, backend_.allocate(measure.used(), MemoryUse::kWorkspace));
  LONGHAUL_ASSIGN(drawn_, backend_.make_readback(static_cast<size_t>(rows) * sizeof(int32_t)));
  buffer_ = std::move(buffer);
  Arena arena(buffer_);
  memory_ = lay_out(arena, rows);
  owners_.clear();
  return Status();
}

Status Sampler::bring_seen(std::span<const DrawRow> rows) {
  const bool known = std::equal(rows.begin(), rows.end(), owners_.begin(), owners_.end(),
                                [](const DrawRow& row, uint64_t owner) { return row.owner == owner; });
  if (known) return Status();
  owners_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<const uint8_t> bits = rows[i].seen->bits();
    LONGHAUL_TRY(backend_.upload(stream_, memory_.seen.slice(static_cast<int64_t>(i), 1).data, bits.data(),
                                 bits.size()));
  }
  for (const DrawRow& row : rows) owners_.push_back(row.owner);
  return Status();
}

Status Sampler::draw(const Tensor& logits, std::span<const DrawRow> rows) {
  const int64_t count = static_cast<int64_t>(rows.size());
  host_params_.clear();
  bool penalty = false;
  for (const DrawRow& row : rows) {
    host_params_.push_back(row.params);
    penalty |= row.params.repetition_penalty != 1;
  }
  if (penalty) {
    LONGHAUL_TRY(bring_seen(rows));
  } else {
    owners_.clear();
  }
  LONGHAUL_TRY(
      backend_.upload(stream_, memory_.params.data, host_params_.data(), rows.size() * sizeof(SampleParams)));
  LONGHAUL_TRY(run(backend_, stream_,
                   SampleArgs{.logits = logits,
                              .params = memory_.params.as<const SampleParams>(),
                              .seen = penalty ? memory_.seen.slice(0, count) : Tensor(),
                              .ids = memory_.ids.slice(0, count)},
                   memory_.workspace));
  return drawn_->fetch(stream_, memory_.ids.data);
}

int32_t Sampler::drawn(size_t row) const {
  int32_t id = 0;
  std::memcpy(&id, static_cast<const char*>(drawn_->data()) + row * sizeof id, sizeof id);
  return id;
}

}  // namespace longhaul
