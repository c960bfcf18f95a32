// One rank is killed in the middle of its collectives, as many milliseconds after the start as the argument
// says: all others must learn of it in time, and be able to go on. Run under a launcher that lets them live
// (mpirun
// --enable-recovery). Each survivor writes a line of its own.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mpi_world.h"

namespace longhaul {
namespace {

constexpr std::chrono::milliseconds kTimeout{2000};
constexpr std::chrono::seconds kLimit{10};
constexpr int kVictim = 1;

int run_rank(int milliseconds) {
  auto mpi = MpiWorld::open(LONGHAUL_MPI_LIBRARY);
  auto backend = make_reference_backend();
  if (!mpi.ok() || !backend.ok()) return 1;
  auto stream = backend.value()->make_stream();
  if (!stream.ok()) return 1;
  const int rank = mpi.value()->rank();
  const auto world = Communicator::create(mpi.value()->transport(), *backend.value(), kTimeout);
  std::vector<float> x(100'000);
  const Tensor tensor = Tensor::dense(x.data(), DType::kF32, {100'000});
  if (!world->barrier(*stream.value()).ok()) return 1;
  if (rank == kVictim) {
    std::thread([milliseconds] {
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
      std::raise(SIGKILL);
    }).detach();
  }

  const auto begin = std::chrono::steady_clock::now();
  Status status;
  while (status.ok()) status = world->all_reduce(*stream.value(), tensor);
  const bool in_time = std::chrono::steady_clock::now() - begin < kLimit;
  const bool again = world->barrier(*stream.value()).code() == Code::kCommunication;
  const bool closed = mpi.value()->close(kTimeout).code() == Code::kCommunication;
  if (status.code() != Code::kCommunication || !in_time || !again || !closed) return 1;
  std::printf("survivor %d: %s\n", rank, status.message().c_str());
  return 0;
}

}  // namespace
}  // namespace longhaul

int main(int argc, char** argv) {
  return longhaul::run_rank(argc > 1 ? std::atoi(argv[1]) : 0);
}
