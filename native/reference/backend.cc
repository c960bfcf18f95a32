#include <cstdlib>
#include <cstring>
#include <limits>

#include "reference/reference.h"

namespace longhaul {
namespace {

class ReferenceStream : public Stream {
 public:
  Status synchronize() override { return Status(); }
};

// These ops allocate what they need themselves.
template <class Args>
size_t no_workspace(const Args&) {
  return 0;
}

constexpr Ops kOps = {
    .embed = reference::embed,
    .rms_norm = reference::rms_norm,
    .gemm = reference::gemm,
    .swiglu = reference::swiglu,
    .rope_table = reference::rope_table,
    .rope = reference::rope,
    .gather_rows = reference::gather_rows,
    .append = reference::append,
    .attention = reference::attention,
    .merge_states = reference::merge_states,
    .truncate = reference::truncate,
    .score_keys = reference::score_keys,
    .key_diversity = reference::key_diversity,
    .combine_scores = reference::combine_scores,
    .select = reference::select,
    .compact = reference::compact,
    .pack_positions = reference::pack_positions,
    .rank_rows = reference::rank_rows,
    .copy_rows = reference::copy_rows,
    .sample = reference::sample,
    .route = reference::route,
    .expert_shrink = reference::expert_shrink,
    .expert_expand = reference::expert_expand,
    .add_weighted_rows = reference::add_weighted_rows,
    .router_loss = reference::router_loss,
    .route_backward = reference::route_backward,
    .expert_backward = reference::expert_backward,
    .linear_backward = reference::linear_backward,
    .pack_heads = reference::pack_heads,
    .unpack_heads = reference::unpack_heads,
    .dense_attention = reference::dense_attention,
    .dense_attention_backward = reference::dense_attention_backward,
    .gemm_workspace = no_workspace,
    .attention_workspace = no_workspace,
    .score_keys_workspace = no_workspace,
    .key_diversity_workspace = no_workspace,
    .combine_scores_workspace = no_workspace,
    .select_workspace = no_workspace,
    .rank_rows_workspace = no_workspace,
    .sample_workspace = no_workspace,
    .expert_shrink_workspace = no_workspace,
    .expert_expand_workspace = no_workspace,
    .router_loss_workspace = no_workspace,
    .expert_backward_workspace = no_workspace,
    .dense_attention_workspace = no_workspace,
};

class ReferenceBackend : public Backend {
 public:
  std::string name() const override { return "reference"; }
  std::string description() const override { return "plain loops in double precision, for tests"; }
  const Ops& ops() const override { return kOps; }

  DType activation_dtype(DType weights) const override {
    return weights == DType::kBf16 ? DType::kBf16 : DType::kF32;
  }

  bool is_host_memory() const override { return true; }
  Result<std::unique_ptr<Stream>> make_stream() override {
    return std::unique_ptr<Stream>(std::make_unique<ReferenceStream>());
  }

  Status upload(Stream&, void* device, const void* host, size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
    return Status();
  }
  Status download(Stream&, void* host, const void* device, size_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
    return Status();
  }

  // Row-major, as it came.
  Result<Weight> pack(std::span<const Tensor> parts) override {
    if (parts.empty()) return invalid_argument("pack: there is no matrix");
    if (!is_float(parts[0].dtype) || parts[0].dtype == DType::kF64) {
      return invalid_argument(std::string("pack: weights are f32, bf16 or f16, not ") +
                              name_of(parts[0].dtype));
    }
    Weight weight;
    weight.dtype = parts[0].dtype;
    weight.cols = parts[0].shape[1];
    for (const Tensor& part : parts) {
      if (part.rank != 2 || part.dtype != weight.dtype || part.shape[1] != weight.cols || !part.is_dense() ||
          part.data == nullptr) {
        return invalid_argument("pack: matrices must be dense, of one dtype and one number of columns");
      }
      weight.rows += part.shape[0];
    }
    const size_t row_bytes = static_cast<size_t>(weight.cols) * size_of(weight.dtype);
    LONGHAUL_ASSIGN(weight.storage,
                    allocate(static_cast<size_t>(weight.rows) * row_bytes, MemoryUse::kWeights));
    char* to = static_cast<char*>(weight.storage.data());
    for (const Tensor& part : parts) {
      std::memcpy(to, part.data, static_cast<size_t>(part.bytes()));
      to += part.bytes();
    }
    return weight;
  }

 protected:
  Result<void*> allocate_bytes(size_t bytes) override {
    constexpr size_t kAlignment = 64;
    if (bytes > std::numeric_limits<size_t>::max() - kAlignment) return cannot_allocate(bytes);
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* data = std::aligned_alloc(kAlignment, rounded);
    if (data == nullptr) return cannot_allocate(bytes);
    std::memset(data, 0, rounded);
    return data;
  }
  void free_bytes(void* data, size_t) override { std::free(data); }
};

}  // namespace

Result<std::unique_ptr<Backend>> make_reference_backend() {
  return std::unique_ptr<Backend>(std::make_unique<ReferenceBackend>());
}

}  // namespace longhaul
