// Recorded ops of one stream.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "core/backend.h"
#include "cuda/stream.h"

namespace longhaul::cuda {

class CudaGraph final : public Graph {
 public:
  CudaGraph(cudaGraphExec_t handle, Health& health) : handle_(handle), health_(health) {}
  ~CudaGraph() override;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  cudaGraphExec_t handle() const { return handle_; }

 private:
  cudaGraphExec_t handle_;
  Health& health_;
};

Status begin_capture(CudaStream& stream);
Result<std::unique_ptr<Graph>> end_capture(CudaStream& stream);
Status replay(CudaStream& stream, const CudaGraph& graph);

}  // namespace longhaul::cuda
