#include "engine/sampler.h"

#include <cstring>
#include <vector>

#include "core/arena.h"

namespace longhaul {

Result<std::unique_ptr<Sampler>> Sampler::create(Backend& backend, Stream& stream, int64_t vocab) {
  std::unique_ptr<Sampler> sampler(new Sampler(backend, stream));
  auto lay_out = [&](Arena arena) {
    sampler->seen_ = arena.take(DType::kU8, {1, (vocab + 7) / 8});
    sampler->id_ = arena.take(DType::kI32, {1});
    sampler->params_ = arena.take(DType::kU8, {static_cast<int64_t>(sizeof(SampleParams))});
    const size_t bytes =
        backend.ops().sample_workspace({.logits = Tensor::dense(nullptr, DType::kF32, {1, vocab})});
    sampler->workspace_ = {arena.take_bytes(bytes), bytes};
    return arena.used();
  };
  LONGHAUL_ASSIGN(sampler->buffer_, backend.allocate(lay_out(Arena()), MemoryUse::kWorkspace));
  lay_out(Arena(sampler->buffer_));
  LONGHAUL_ASSIGN(sampler->drawn_, backend.make_readback(sizeof(int32_t)));
  return sampler;
}

Status Sampler::start(std::span<const int32_t> tokens) {
  std::vector<uint8_t> mask(static_cast<size_t>(seen_.elements()));
  for (int32_t token : tokens) mask[static_cast<size_t>(token) / 8] |= static_cast<uint8_t>(1u << (token % 8));
  return backend_.upload(stream_, seen_.data, mask.data(), mask.size());
}

Status Sampler::draw(const Tensor& logits, const SampleParams& params) {
  LONGHAUL_TRY(backend_.upload(stream_, params_.data, &params, sizeof params));
  LONGHAUL_TRY(run(backend_, stream_,
                   SampleArgs{.logits = logits,
                              .params = params_.as<const SampleParams>(),
                              .seen = params.repetition_penalty != 1 ? seen_ : Tensor(),
                              .ids = id_},
                   workspace_));
  return drawn_->fetch(stream_, id_.data);
}

int32_t Sampler::drawn() const {
  int32_t id = 0;
  std::memcpy(&id, drawn_->data(), sizeof id);
  return id;
}

}  // namespace longhaul
