// Draws tokens on the device and brings only their ids to the host.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/ops.h"

namespace longhaul {

// The tokens that a repetition penalty falls on, as the op wants them.
class SeenTokens {
 public:
  SeenTokens() = default;
  SeenTokens(int64_t vocab, std::span<const int32_t> tokens);
  void add(int32_t token) { bits_[static_cast<size_t>(token) / 8] |= static_cast<uint8_t>(1u << (token % 8)); }
  std::span<const uint8_t> bits() const { return bits_; }

 private:
  std::vector<uint8_t> bits_;  // [ceil(vocab / 8)]
};

// One row of a draw.
struct DrawRow {
  uint64_t owner = 0;  // who draws: what the device knows of its tokens is used again
  SampleParams params;
  const SeenTokens* seen = nullptr;
};

class Sampler {
 public:
  static Result<std::unique_ptr<Sampler>> create(Backend& backend, Stream& stream, int64_t vocab);

  // Makes sure draws of `rows` rows have their memory. kOutOfMemory leaves the old one.
  Status prepare(int64_t rows);
  int64_t rows() const { return memory_.ids.shape[0]; }

  // Row i from row i of the logits, [rows, vocab] f32 in device memory. Whoever draws adds drawn(i) to its seen
  // tokens. Tokens are there after the stream's next synchronize().
  Status draw(const Tensor& logits, std::span<const DrawRow> rows);
  int32_t drawn(size_t row) const;

 private:
  struct Memory {
    Tensor seen;    // [rows, ceil(vocab / 8)] u8
    Tensor ids;     // [rows] i32
    Tensor params;  // [rows * sizeof(SampleParams)] u8
    Workspace workspace;
  };

  Sampler(Backend& backend, Stream& stream, int64_t vocab)
      : backend_(backend), stream_(stream), vocab_(vocab) {}

  Memory lay_out(Arena& arena, int64_t rows) const;
  Status bring_seen(std::span<const DrawRow> rows);

  Backend& backend_;
  Stream& stream_;
  int64_t vocab_;
  Buffer buffer_;
  Memory memory_;
  std::unique_ptr<Readback> drawn_;  // memory_.ids
  std::vector<uint64_t> owners_;     // of the rows of memory_.seen; empty when it is of no use
  std::vector<SampleParams> host_params_;
};

}  // namespace longhaul
