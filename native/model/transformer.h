// One forward pass of a Llama-family model over rows of several sequences, written in ops only.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/ops.h"
#include "kv/cache.h"
#include "kv/eviction.h"
#include "kv/policy.h"
#include "model/config.h"
#include "model/weights.h"
#include "mole/expert_pass.h"

namespace longhaul {

// One sequence's part of a pass: `rows` tokens that stay and `observers` that look back at the cache, decide
// the eviction and are dropped again (EpiCache's patched prompt). Tokens and positions hold the rows, then
// them.
struct Segment {
  SequenceCache* cache = nullptr;
  const MemoryPolicy* policy = nullptr;
  Tensor own;                          // the policy's, in device memory
  std::span<const int32_t> tokens;     // [rows + observers]
  std::span<const int32_t> positions;  // [rows + observers]
  int32_t rows = 0;
  int32_t observers = 0;
  bool evict = false;  // down to the policy's budget, layer by layer
  const AdapterWeights* adapter = nullptr;
};

// One of several prompts behind the same block.
struct SharedPrompt {
  const MemoryPolicy* policy = nullptr;
  Tensor own;  // the policy's, in device memory
  std::span<const int32_t> tokens;
  std::span<const int32_t> positions;
  SequenceCache* target = nullptr;  // gets the rows that the prompt selects; null: nobody yet
};

// A pass over one block whose rows several prompts rate. Prompts see the cache, the block and themselves, not
// each other; policies differ in their prompts and own tokens only, and a prompt may be empty. The union of
// their selections stays in the cache.
struct SharedPass {
  SequenceCache* cache = nullptr;
  std::span<const int32_t> tokens;     // [rows] of the block
  std::span<const int32_t> positions;  // [rows]
  std::span<const SharedPrompt> prompts;
  std::span<const int32_t> budgets;  // [layers] rows a head that the union may have
  const AdapterWeights* adapter = nullptr;
};

// Watches a pass; for golden cases, embeddings and evaluation. Tensors are device memory.
class PassObserver : public EvictionObserver {
 public:
  // hidden[0] is the embedding's output, hidden[i] the residual stream behind layer i. [rows, hidden] f32.
  virtual Status on_hidden(int32_t index, const Tensor& hidden) = 0;
  // The layer's eviction is done.
  virtual Status on_evicted(int32_t layer) = 0;
  // Adapters have run behind the products of `group`.
  virtual Status on_adapted(int32_t, ProjectionGroup, const ExpertRouting&) { return Status(); }
  // MixLoRA's FFNs have run: one part, no entropy.
  virtual Status on_mixed(int32_t, const ExpertRouting&) { return Status(); }
};

// The largest passes that scratch memory is for.
struct PassLimits {
  int64_t rows = 0;         // of the pass, observers counted
  int64_t head_rows = 0;    // that any head holds
  int64_t scored_rows = 0;  // that a head holds when it is evicted
  int64_t observers = 0;
  int64_t sequences = 1;    // segments; of a shared pass two a prompt and one
  int64_t shared_rows = 0;  // that a head holds when several prompts select
  ExpertLimits experts;     // of any adapter

  bool operator==(const PassLimits&) const = default;
};

// What one row of the model's keys and values looks like.
KvGeometry kv_geometry(const ModelConfig& config, DType weights_dtype);

class Transformer {
 public:
  // Reads config.json and the weights of `directory`.
  static Result<std::unique_ptr<Transformer>> load(Backend& backend, const std::string& directory,
                                                   const LoadProgress& progress);

  const ModelConfig& config() const { return config_; }
  DType weights_dtype() const { return weights_.dtype; }
  Backend& backend() const { return backend_; }
  Stream& stream() const { return *stream_; }
  // Of RoPE, after the model's scaling. [head_dim / 2] f64, device memory.
  const Tensor& rope_frequencies() const { return weights_.rope_frequencies.tensor; }
  KvGeometry kv_geometry() const { return longhaul::kv_geometry(config_, weights_.dtype); }

  // What adapters of this model have to fit.
  AdaptedModel adapted() const;
  // Checks an adapter and brings it to the device. kCorruptFile names the tensor that does not fit.
  Result<std::shared_ptr<const AdapterWeights>> bring(const Adapter& adapter);

  // Makes sure passes up to these limits have their scratch memory. Only grows; kOutOfMemory leaves the old
  // one.
  Status prepare(PagePool& pool, const PassLimits& limits);

  // Queues all layers: nothing is waited for, every cache collects. Afterwards hidden_rows() holds the final
  // normed states of the pass's rows. Decode passes are recorded where that saves time, and replayed.
  Status forward(PagePool& pool, std::span<const Segment> segments, PassObserver* observer = nullptr);

  // The same for a shared pass: its cache collects, and its targets.
  Status forward(PagePool& pool, const SharedPass& pass);

  // [rows of the last pass, hidden] act.
  Tensor hidden_rows() const { return normed_.slice(0, pass_rows_); }

  // Logits of rows [begin, begin + count) of the last pass; count <= kLogitRows, or the sequences that passes
  // are prepared for. [count, vocab] f32, device memory, valid until the next call. Queued, not waited for.
  static constexpr int64_t kLogitRows = 8;
  Result<Tensor> logits(int64_t begin, int64_t count);

 private:
  Transformer(Backend& backend, ModelConfig config) : backend_(backend), config_(config) {}

  // DoRA's factors, where the adapter has magnitudes.
  Status rescale(const Adapter& adapter, AdapterWeights& weights);
  void lay_out(Arena& arena, const PageArrays& pages, const PassLimits& limits);
  // Brings tokens, positions and views to the device and decides the pass's shape.
  Status stage(std::span<const Segment> segments);
  // What a layer does with the queries, keys and values of the pass's rows: fills attended_ from qkv_. Made of
  // a reference, for a decode step allocates nothing.
  using Attend = std::function<Status(int32_t layer)>;
  // The ops of a pass, from the embedding to the final norm.
  Status run_layers(const Attend& attend, PassObserver* observer);
  // The same as one recorded graph; recorded when the pass is the first of its shape.
  Status replay_layers(PagePool& pool, std::span<const Segment> segments);
  Status attention_block(int32_t layer, const Attend& attend, PassObserver* observer);
  Status attend_segments(PagePool& pool, int32_t layer, std::span<const Segment> segments,
                         PassObserver* observer);
  Status attend_shared(PagePool& pool, int32_t layer, const SharedPass& pass);
  // The rows of `count` segments, of which `views` are the first's in a layer, go to their caches and look
  // back.
  Status append_rows(PagePool& pool, const CacheView* views, int64_t count);
  Status attend_rows(PagePool& pool, const CacheView* views, int64_t count);
  // The parts of qkv_. [rows, heads, head_dim]
  Tensor queries() const;
  Tensor keys() const;
  Tensor values() const;
  float attention_scale() const;
  Status mlp_block(int32_t layer, PassObserver* observer);
  // Adds what adapters say of x to the group's projections, which lie beside each other in `out`.
  Status adapt(int32_t layer, ProjectionGroup group, const Tensor& x, const Tensor& out,
               PassObserver* observer);
  ExpertPass::Context expert_context() { return {backend_, *stream_, workspace_, pass_role_}; }
  Status gemm(const Tensor& x, const Weight& weight, const Tensor& bias, const Tensor& out);

  Backend& backend_;
  ModelConfig config_;
  std::unique_ptr<Stream> stream_;
  ModelWeights weights_;

  // Scratch memory of a pass.
  Buffer scratch_;
  PassLimits limits_;
  int64_t pass_rows_ = 0;
  int32_t pass_length_ = 1;  // no head of the pass holds more rows; in decode passes a power of two, or all
  RowRole pass_role_ = RowRole::kBlock;
  Tensor inputs_;              // [*] u8, what stage() uploads: the three below
  Tensor tokens_, positions_;  // [rows] i32
  Tensor views_;               // [layers, sequences] CacheView, as bytes
  Tensor cos_, sin_;           // [rows, head_dim / 2] f32
  Tensor residual_, delta_;    // [rows, hidden] f32
  Tensor normed_;              // [rows, hidden] act
  Tensor qkv_;                 // [rows, (heads + 2 * kv_heads) * head_dim] act
  Tensor attended_;            // [rows, heads * head_dim] act
  Tensor gate_up_, mlp_;       // [rows, 2 * ff], [rows, ff] act
  Tensor logits_;              // [kLogitRows or sequences, vocab] f32
  Workspace workspace_;
  EvictionScratch eviction_;
  ExpertPass experts_;
  std::vector<AdaptedRows> adapted_rows_;  // kept between passes, as the next
  std::vector<char> host_inputs_;          // kept between passes: a decode step allocates nothing

  // Decode passes that were recorded. Every argument of their ops is in the key, or fixed since the scratch
  // memory was laid out.
  struct RecordedPass {
    size_t segments;
    int32_t length;
    const void* pages;
    std::vector<uint64_t> adapters;  // by segment: AdapterWeights::id(), 0 for none
    std::unique_ptr<Graph> graph;
  };
  std::vector<RecordedPass> recorded_;
};

}  // namespace longhaul
