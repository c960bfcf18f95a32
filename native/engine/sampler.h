// Draws tokens on the device and brings only their ids to the host.
#pragma once

#include <memory>
#include <span>

#include "core/ops.h"

namespace longhaul {

class Sampler {
 public:
  static Result<std::unique_ptr<Sampler>> create(Backend& backend, Stream& stream, int64_t vocab);

  // Forgets which tokens were seen, then marks `tokens`: the repetition penalty falls on them.
  Status start(std::span<const int32_t> tokens);

  // From one row of logits, [1, vocab] f32 in device memory. drawn() is the token after the stream's next
  // synchronize().
  Status draw(const Tensor& logits, const SampleParams& params);
  int32_t drawn() const;

 private:
  Sampler(Backend& backend, Stream& stream) : backend_(backend), stream_(stream) {}

  Backend& backend_;
  Stream& stream_;
  Buffer buffer_;
  Tensor seen_;    // [1, ceil(vocab / 8)] u8
  Tensor id_;      // [1] i32
  Tensor params_;  // [sizeof(SampleParams)] u8
  Workspace workspace_;
  std::unique_ptr<Readback> drawn_;  // id_
};

}  // namespace longhaul
