// Ranks that are processes under mpirun, over the MPI of the machine (mpi/shim.h).
#pragma once

#include <memory>
#include <string>

#include "parallel/transport.h"

struct LonghaulMpi;

namespace longhaul {

// MPI in this process, which can be started once. mpirun may run more ranks than there are cores: a rank that
// waits gives its core to others.
class MpiWorld {
 public:
  // `library` is the path of liblonghaul_mpi.so. kUnsupported when it is not there or MPI does not start.
  static Result<std::unique_ptr<MpiWorld>> open(const std::string& library);

  int rank() const;
  int size() const;

  // This process's end. Several may follow one another, when all ranks make the same.
  std::unique_ptr<Transport> transport() const;

  // Meets the other ranks, then ends MPI: mpirun takes a process that leaves without it for a failed one.
  // kCommunication when they do not come within `timeout`; MPI is then left as it is.
  Status close(std::chrono::milliseconds timeout);

 private:
  explicit MpiWorld(const LonghaulMpi* mpi) : mpi_(mpi) {}

  const LonghaulMpi* mpi_;
};

}  // namespace longhaul
