#include "cuda/backend.h"

#include <mutex>

#include "cuda/discovery.h"
#include "cuda/graph.h"
#include "cuda/ops.h"
#include "cuda/pack.h"
#include "cuda/readback.h"
#include "cuda/staging.h"
#include "cuda/weight_layout.h"

namespace longhaul {
namespace cuda {
namespace {

// While one slot of weights is on its way the other is filled, from a file that is being read.
constexpr size_t kWeightSlots = 2;
constexpr size_t kWeightSlotBytes = size_t{8} << 20;

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(FoundDevice found) : found_(std::move(found)) {}
  ~CudaBackend() override {
    if (service_ == nullptr) return;
    weights_.reset();
    static_cast<void>(health_.check(cudaStreamDestroy(service_), "destroying a stream"));
  }

  Status start() {
    LONGHAUL_TRY(use());
    return health_.check(cudaStreamCreateWithFlags(&service_, cudaStreamNonBlocking), "creating a stream");
  }

  std::string name() const override { return "cuda:" + std::to_string(found_.traits.device); }
  std::string description() const override { return found_.description; }
  const Ops& ops() const override { return kOps; }
  DType activation_dtype(DType weights) const override {
    return weights == DType::kBf16 ? DType::kBf16 : DType::kF32;
  }

  bool is_host_memory() const override { return false; }
  Result<std::unique_ptr<Stream>> make_stream() override {
    LONGHAUL_TRY(use());
    cudaStream_t handle = nullptr;
    LONGHAUL_TRY(health_.check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "creating a stream"));
    LONGHAUL_ASSIGN(std::unique_ptr<CudaStream> stream, CudaStream::create(handle, found_.traits, health_));
    return std::unique_ptr<Stream>(std::move(stream));
  }

  Status upload(Stream& stream, void* device, const void* host, size_t bytes) override {
    LONGHAUL_TRY(use());
    return bytes == 0 ? Status() : cuda_stream(stream).upload(device, host, bytes);
  }

  Status download(Stream& stream, void* host, const void* device, size_t bytes) override {
    LONGHAUL_TRY(use());
    const cudaStream_t handle = cuda_stream(stream).handle();
    if (bytes > 0) {
      LONGHAUL_TRY(
          health_.check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, handle), "downloading"));
    }
    return stream.synchronize();
  }

  Result<std::unique_ptr<Readback>> make_readback(size_t bytes) override {
    LONGHAUL_TRY(use());
    return cuda::make_readback(health_, bytes);
  }

  bool can_capture() const override { return true; }
  Status begin_capture(Stream& stream) override {
    LONGHAUL_TRY(use());
    return cuda::begin_capture(cuda_stream(stream));
  }
  Result<std::unique_ptr<Graph>> end_capture(Stream& stream) override {
    return cuda::end_capture(cuda_stream(stream));
  }
  Status replay(Stream& stream, const Graph& graph) override {
    return cuda::replay(cuda_stream(stream), static_cast<const CudaGraph&>(graph));
  }

  Result<Weight> pack(std::span<const Tensor> parts) override {
    LONGHAUL_ASSIGN(Weight weight, stacked(parts));
    const size_t pitch_bytes =
        static_cast<size_t>(weight_pitch(weight.cols, weight.dtype)) * size_of(weight.dtype);
    LONGHAUL_ASSIGN(weight.storage,
                    allocate(static_cast<size_t>(weight.rows) * pitch_bytes, MemoryUse::kWeights));
    if (weight.rows == 0 || weight.cols == 0) return weight;
    const std::lock_guard lock(service_mutex_);
    if (weights_ == nullptr) {
      LONGHAUL_ASSIGN(weights_, StagingRing::create(health_, service_, kWeightSlots, kWeightSlotBytes));
    }
    LONGHAUL_TRY(send_rows(*weights_, parts, static_cast<char*>(weight.storage.data())));
    // Whoever uses the weight does so in another stream.
    LONGHAUL_TRY(health_.check(cudaStreamSynchronize(service_), "uploading weights"));
    return weight;
  }

 protected:
  // cudaMalloc rather than a stream-ordered pool: buffers are few and live long, a Buffer is freed without a
  // stream at hand, and cudaFree waits for whatever still works on it.
  Result<void*> allocate_bytes(size_t bytes) override {
    LONGHAUL_TRY(use());
    void* data = nullptr;
    if (const cudaError_t error = cudaMalloc(&data, bytes); error != cudaSuccess) return refusal(error, bytes);
    const std::lock_guard lock(service_mutex_);
    cudaError_t error = cudaMemsetAsync(data, 0, bytes, service_);
    if (error == cudaSuccess) error = cudaStreamSynchronize(service_);
    if (error == cudaSuccess) return data;
    const Status status = health_.check(error, "clearing memory");
    free_bytes(data, bytes);
    return status;
  }

  void free_bytes(void* data, size_t) override {
    if (!use().ok()) return;  // the memory went with the device
    static_cast<void>(health_.check(cudaFree(data), "freeing memory"));
  }

 private:
  // Makes this device the calling thread's.
  Status use() {
    LONGHAUL_TRY(health_.status());
    return health_.check(cudaSetDevice(found_.traits.device), "choosing the GPU");
  }

  Status refusal(cudaError_t error, size_t bytes) {
    const Status status = health_.check(error, "allocating memory");
    size_t free = 0;
    size_t total = 0;
    if (status.code() != Code::kOutOfMemory || cudaMemGetInfo(&free, &total) != cudaSuccess) return status;
    return {status.code(), cannot_allocate(bytes).message() + ": " + std::to_string(free) + " of its " +
                               std::to_string(total) + " bytes are free (" + status.message() + ")"};
  }

  FoundDevice found_;
  Health health_;
  std::mutex service_mutex_;        // guards the two below: kernels may be called from several threads
  cudaStream_t service_ = nullptr;  // clears memory and brings weights
  std::unique_ptr<StagingRing> weights_;
};

}  // namespace
}  // namespace cuda

Result<std::unique_ptr<Backend>> make_cuda_backend(int device) {
  LONGHAUL_ASSIGN(cuda::FoundDevice found, cuda::find_device(device));
  auto backend = std::make_unique<cuda::CudaBackend>(std::move(found));
  LONGHAUL_TRY(backend->start());
  return std::unique_ptr<Backend>(std::move(backend));
}

Result<std::string> describe_cuda_device(int device) {
  LONGHAUL_ASSIGN(cuda::FoundDevice found, cuda::find_device(device));
  return std::move(found.description);
}

}  // namespace longhaul
