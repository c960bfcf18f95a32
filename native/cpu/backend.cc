#include "cpu/backend.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "cpu/cpu_features.h"
#include "cpu/ops.h"
#include "cpu/pack.h"

namespace longhaul {
namespace cpu {
namespace {

constexpr Ops kOps = {
    .embed = embed,
    .rms_norm = rms_norm,
    .gemm = gemm,
    .swiglu = swiglu,
    .rope_table = rope_table,
    .rope = rope,
    .gather_rows = gather_rows,
    .append = append,
    .attention = attention,
    .merge_states = merge_states,
    .truncate = truncate,
    .score_keys = score_keys,
    .key_diversity = key_diversity,
    .combine_scores = combine_scores,
    .select = select,
    .compact = compact,
    .pack_positions = pack_positions,
    .rank_rows = rank_rows,
    .copy_rows = copy_rows,
    .sample = sample,
    .route = route,
    .expert_shrink = expert_shrink,
    .expert_expand = expert_expand,
    .add_weighted_rows = add_weighted_rows,
    .router_loss = router_loss,
    .route_backward = route_backward,
    .expert_backward = expert_backward,
    .linear_backward = linear_backward,
    .pack_heads = pack_heads,
    .unpack_heads = unpack_heads,
    .dense_attention = dense_attention,
    .dense_attention_backward = dense_attention_backward,
    .gemm_workspace = gemm_workspace,
    .attention_workspace = attention_workspace,
    .score_keys_workspace = score_keys_workspace,
    .key_diversity_workspace = key_diversity_workspace,
    .combine_scores_workspace = combine_scores_workspace,
    .select_workspace = select_workspace,
    .rank_rows_workspace = rank_rows_workspace,
    .sample_workspace = sample_workspace,
    .expert_shrink_workspace = expert_shrink_workspace,
    .expert_expand_workspace = expert_expand_workspace,
    .router_loss_workspace = router_loss_workspace,
    .expert_backward_workspace = expert_backward_workspace,
    .dense_attention_workspace = dense_attention_workspace,
};

constexpr size_t kLine = 64;
constexpr size_t kSmallPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(InstructionSet isa, std::shared_ptr<ThreadPool> pool, int threads)
      : isa_(isa), pool_(std::move(pool)), threads_(threads) {}

  std::string name() const override { return "cpu"; }
  std::string description() const override {
    return std::string(isa_.name) + ", " + std::to_string(threads_) + (threads_ == 1 ? " thread" : " threads");
  }
  const Ops& ops() const override { return kOps; }
  DType activation_dtype(DType weights) const override {
    return weights == DType::kBf16 ? DType::kBf16 : DType::kF32;
  }

  bool is_host_memory() const override { return true; }
  Result<std::unique_ptr<Stream>> make_stream() override {
    LONGHAUL_ASSIGN(Buffer scratch, allocate(threads_ * CpuStream::kScratchBytes, MemoryUse::kWorkspace));
    return std::unique_ptr<Stream>(
        std::make_unique<CpuStream>(*isa_.kernels, pool_, threads_, std::move(scratch)));
  }

  Status upload(Stream&, void* device, const void* host, size_t bytes) override {
    if (bytes != 0) std::memcpy(device, host, bytes);
    return {};
  }
  Status download(Stream&, void* host, const void* device, size_t bytes) override {
    if (bytes != 0) std::memcpy(host, device, bytes);
    return {};
  }

  Result<Weight> pack(std::span<const Tensor> parts) override {
    LONGHAUL_ASSIGN(PackedLayout layout, packed_layout(parts));
    LONGHAUL_ASSIGN(Buffer storage, allocate(layout.bytes(), MemoryUse::kWeights));
    pack_panels(parts, layout, storage.data(), *pool_, threads_);
    return Weight{layout.rows, layout.cols, layout.dtype, std::move(storage)};
  }

 protected:
  Result<void*> allocate_bytes(size_t bytes) override {
    // Fresh mappings are zeroed by the system on first touch; small pieces share the heap.
    if (bytes < kHugePage) {
      void* data = std::aligned_alloc(kLine, round_up(bytes, kLine));
      if (data == nullptr) return cannot_allocate(bytes);
      std::memset(data, 0, bytes);
      return data;
    }
    // Aligned for huge pages, but not rounded to them: what is accounted for is what is resident.
    const size_t size = round_up(bytes, kSmallPage);
    void* mapping =
        ::mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return cannot_allocate(bytes);
    char* begin = static_cast<char*>(mapping);
    char* data = reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(begin), kHugePage));
    // Gives back what alignment did not need, so that free_bytes knows the mapping from the size alone.
    if (data != begin) ::munmap(begin, data - begin);
    const size_t tail = (begin + size + kHugePage) - (data + size);
    if (tail != 0) ::munmap(data + size, tail);
    ::madvise(data, size, MADV_HUGEPAGE);
    return static_cast<void*>(data);
  }
  void free_bytes(void* data, size_t bytes) override {
    if (bytes < kHugePage) {
      std::free(data);
    } else {
      ::munmap(data, round_up(bytes, kSmallPage));
    }
  }

 private:
  InstructionSet isa_;
  std::shared_ptr<ThreadPool> pool_;
  int threads_;
};

}  // namespace
}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(int threads) {
  if (threads < 0) return invalid_argument("threads must be 0 or more, got " + std::to_string(threads));
  if (threads == 0) threads = cpu::available_cores();
  LONGHAUL_ASSIGN(cpu::InstructionSet isa, cpu::choose_instruction_set());
  LONGHAUL_ASSIGN(std::shared_ptr<cpu::ThreadPool> pool, cpu::ThreadPool::acquire(threads));
  return std::unique_ptr<Backend>(std::make_unique<cpu::CpuBackend>(isa, std::move(pool), threads));
}

}  // namespace longhaul
