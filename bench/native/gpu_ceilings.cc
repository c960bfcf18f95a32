// What a GPU can do at most. Everything of CUDA is found at run time, so that bench_ops is one program for all
// devices.
#include <dlfcn.h>

#include <span>

#include "ceilings.h"
#include "memory.h"

namespace longhaul::bench {
namespace {

constexpr size_t kCopyBytes = size_t{2} << 30;
constexpr int64_t kProductSize = 8192;

template <class Function>
Function find(void* library, const char* name) {
  return reinterpret_cast<Function>(library == nullptr ? nullptr : dlsym(library, name));
}

Ceiling ceiling(std::string name, const char* unit, const char* detail, double amount, const Timing& timing) {
  return {std::move(name), 1, unit, detail, amount / timing.best, amount / timing.median};
}

// The driver's own calls, in the context that the backend has made current.
class Driver {
 public:
  Driver()
      : library_(dlopen("libcuda.so.1", RTLD_NOW)),
        copy_(find<int (*)(uint64_t, uint64_t, size_t)>(library_, "cuMemcpyDtoD_v2")),
        wait_(find<int (*)()>(library_, "cuCtxSynchronize")) {}

  bool found() const { return copy_ != nullptr && wait_ != nullptr; }
  Status copy(void* to, const void* from, size_t bytes) const {
    return status(copy_(reinterpret_cast<uint64_t>(to), reinterpret_cast<uint64_t>(from), bytes));
  }
  Status wait() const { return status(wait_()); }

 private:
  static Status status(int code) {
    return code == 0 ? Status() : internal_error("the CUDA driver answers " + std::to_string(code));
  }

  void* library_;
  int (*copy_)(uint64_t, uint64_t, size_t);
  int (*wait_)();
};

// The queue of the driver's default stream, which cuBLAS uses as well.
class DefaultStream final : public Stream {
 public:
  explicit DefaultStream(const Driver& driver) : driver_(driver) {}
  Status synchronize() override { return driver_.wait(); }

 private:
  const Driver& driver_;
};

// The four functions of cuBLAS that a product takes, with the numbers of its headers.
class Cublas {
 public:
  Cublas() {
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      if (library_ == nullptr) library_ = dlopen(name, RTLD_NOW);
    }
    const auto create = find<int (*)(void**)>(library_, "cublasCreate_v2");
    product_ = find<Product>(library_, "cublasGemmEx");
    if (create == nullptr || product_ == nullptr || create(&handle_) != 0) handle_ = nullptr;
  }
  ~Cublas() {
    const auto destroy = find<int (*)(void*)>(library_, "cublasDestroy_v2");
    if (handle_ != nullptr && destroy != nullptr) destroy(handle_);
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  bool found() const { return handle_ != nullptr; }

  // out = x * weight^T, all [n, n] bf16, row-major: column-major it is out^T = weight * x^T.
  Status multiply(const Tensor& x, const Tensor& weight, const Tensor& out) const {
    constexpr int kTransposed = 1, kAsItIs = 0, kBf16 = 14, kComputeF32 = 68, kDefault = -1;
    const int n = static_cast<int>(x.shape[0]);
    const float one = 1, zero = 0;
    const int code = product_(handle_, kTransposed, kAsItIs, n, n, n, &one, weight.data, kBf16, n, x.data,
                              kBf16, n, &zero, out.data, kBf16, n, kComputeF32, kDefault);
    return code == 0 ? Status() : internal_error("cublasGemmEx answers " + std::to_string(code));
  }

 private:
  using Product = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
                          int, const void*, void*, int, int, int, int);

  void* library_ = nullptr;
  void* handle_ = nullptr;
  Product product_ = nullptr;
};

}  // namespace

Result<std::vector<Ceiling>> measure_gpu_ceilings(Backend& backend, const CeilingLimits& limits) {
  LONGHAUL_ASSIGN(const std::unique_ptr<Stream> stream, backend.make_stream());
  const Driver driver;
  if (!driver.found()) return unsupported("libcuda.so.1 has no cuMemcpyDtoD: the copy rate cannot be measured");
  DefaultStream default_stream(driver);
  const Limits each{.seconds = limits.seconds};
  std::vector<Ceiling> ceilings;
  {
    LONGHAUL_ASSIGN(const Buffer from, backend.allocate(kCopyBytes, MemoryUse::kWorkspace));
    LONGHAUL_ASSIGN(const Buffer to, backend.allocate(kCopyBytes, MemoryUse::kWorkspace));
    const Operation copy{[&] { return driver.copy(to.data(), from.data(), kCopyBytes); }, {}};
    LONGHAUL_ASSIGN(const Timing timing, measure(copy, default_stream, true, each));
    ceilings.push_back(ceiling("read.memory", "B/s", "device copy", 2.0 * kCopyBytes, timing));
  }

  Memory memory(backend, *stream, /*seed=*/1);
  constexpr int64_t n = kProductSize;
  const double flops = 2.0 * n * n * n;
  GemmArgs product;
  LONGHAUL_ASSIGN(product.x, memory.random(DType::kBf16, {n, n}));
  LONGHAUL_ASSIGN(product.out, memory.zeros(DType::kBf16, {n, n}));
  LONGHAUL_ASSIGN(product.weight, memory.weight(DType::kBf16, n, n));
  LONGHAUL_ASSIGN(const Workspace workspace, memory.workspace(backend.ops().gemm_workspace(product)));
  const Operation own{[&] { return run(backend, *stream, product, workspace); }, {}};
  LONGHAUL_ASSIGN(const Timing timing, measure(own, *stream, true, each));
  Ceiling peak = ceiling("bf16.tensor-cores", "FLOP/s", "8192^3 by longhaul", flops, timing);
  const Cublas cublas;
  if (cublas.found()) {
    LONGHAUL_ASSIGN(const Tensor weight, memory.random(DType::kBf16, {n, n}));
    const Operation theirs{[&] { return cublas.multiply(product.x, weight, product.out); }, {}};
    LONGHAUL_ASSIGN(const Timing peer, measure(theirs, default_stream, true, each));
    Ceiling other = ceiling("bf16.tensor-cores", "FLOP/s", "8192^3 by cuBLAS", flops, peer);
    if (other.best > peak.best) peak = std::move(other);
  }
  ceilings.push_back(std::move(peak));
  return ceilings;
}

}  // namespace longhaul::bench
