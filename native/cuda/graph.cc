#include "cuda/graph.h"

namespace longhaul::cuda {

CudaGraph::~CudaGraph() {
  static_cast<void>(health_.check(cudaGraphExecDestroy(handle_), "destroying a graph"));
}

Status begin_capture(CudaStream& stream) {
  LONGHAUL_TRY(stream.health().status());
  // Thread-local: other engines of the process may allocate while this one records.
  return stream.health().check(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal),
                               "recording a graph");
}

Result<std::unique_ptr<Graph>> end_capture(CudaStream& stream) {
  Health& health = stream.health();
  cudaGraph_t recorded = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.handle(), &recorded);
  cudaGraphExec_t executable = nullptr;
  cudaError_t made = cudaSuccess;
  if (recorded != nullptr) {
    if (ended == cudaSuccess) made = cudaGraphInstantiate(&executable, recorded, 0);
    static_cast<void>(health.check(cudaGraphDestroy(recorded), "destroying a recording"));
  }
  LONGHAUL_TRY(health.check(ended, "recording a graph"));
  LONGHAUL_TRY(health.check(made, "making a graph"));
  return std::unique_ptr<Graph>(std::make_unique<CudaGraph>(executable, health));
}

Status replay(CudaStream& stream, const CudaGraph& graph) {
  LONGHAUL_TRY(stream.health().status());
  return stream.health().check(cudaGraphLaunch(graph.handle(), stream.handle()), "launching a graph");
}

}  // namespace longhaul::cuda
