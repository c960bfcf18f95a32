#include "parallel/mpi_world.h"

#include <dlfcn.h>

#include <array>
#include <vector>

#include "parallel/mpi/shim.h"

namespace longhaul {
namespace {

using Reason = std::array<char, 512>;

std::string linker_error() {
  const char* error = dlerror();
  return error != nullptr ? error : "unknown error";
}

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(const LonghaulMpi* mpi) : mpi_(mpi) {}

  int rank() const override { return mpi_->rank; }
  int size() const override { return mpi_->size; }

  Status exchange(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                  std::chrono::milliseconds timeout) override {
    std::vector<LonghaulMpiMessage> out, in;
    for (const Outgoing& send : sends) out.push_back({send.to, const_cast<void*>(send.data), send.bytes});
    for (const Incoming& receive : receives) in.push_back({receive.from, receive.data, receive.bytes});
    Reason why{};
    if (mpi_->exchange(out.data(), out.size(), in.data(), in.size(), timeout.count(), why.data(), why.size()) ==
        0) {
      return {};
    }
    return communication_error("MPI, rank " + std::to_string(rank()) + ": " + why.data());
  }

 private:
  const LonghaulMpi* mpi_;
};

}  // namespace

Result<std::unique_ptr<MpiWorld>> MpiWorld::open(const std::string& library) {
  // Never closed: MPI has threads and exit handlers. Global: its plug-ins look for its symbols.
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) return unsupported("MPI cannot be used: " + linker_error());
  const auto start = reinterpret_cast<LonghaulMpiOpen>(dlsym(handle, kLonghaulMpiSymbol));
  if (start == nullptr) return unsupported(library + " is not this version's MPI library: " + linker_error());
  Reason why{};
  const LonghaulMpi* const mpi = start(why.data(), why.size());
  if (mpi == nullptr) return unsupported(std::string("MPI cannot be started: ") + why.data());
  return std::unique_ptr<MpiWorld>(new MpiWorld(mpi));
}

int MpiWorld::rank() const {
  return mpi_->rank;
}

int MpiWorld::size() const {
  return mpi_->size;
}

std::unique_ptr<Transport> MpiWorld::transport() const {
  return std::make_unique<MpiTransport>(mpi_);
}

Status MpiWorld::close(std::chrono::milliseconds timeout) {
  Reason why{};
  if (mpi_->close(timeout.count(), why.data(), why.size()) == 0) return {};
  return communication_error("MPI, rank " + std::to_string(rank()) + ": " + why.data());
}

}  // namespace longhaul
