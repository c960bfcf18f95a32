// The suites of test/native/parallel on the ranks of mpirun: every process runs every test.
#include <cstdio>
#include <memory>

#include "parallel/devices.h"
#include "parallel/mpi_world.h"
#include "parallel/ranks.h"

namespace longhaul::testing {
namespace {

std::unique_ptr<MpiWorld> mpi;

}  // namespace

std::vector<int> world_sizes() {
  return {mpi->size()};
}

void on_ranks(int size, const std::string& device, const std::function<void(Rank&)>& body,
              std::chrono::milliseconds timeout) {
  ASSERT_EQ(size, mpi->size());
  auto backend = make_rank_device(device);
  ASSERT_OK(backend.status());
  auto stream = backend.value()->make_stream();
  ASSERT_OK(stream.status());
  const auto world = Communicator::create(mpi->transport(), *backend.value(), timeout);
  Rank rank{*world, *backend.value(), *stream.value()};
  body(rank);
}

int run_suites(int argc, char** argv) {
  auto opened = MpiWorld::open(LONGHAUL_MPI_LIBRARY);
  if (!opened.ok()) {
    std::fprintf(stderr, "%s\n", opened.status().message().c_str());
    return 1;
  }
  mpi = std::move(opened.value());
  ::testing::InitGoogleTest(&argc, argv);
  if (mpi->rank() > 0) ::testing::GTEST_FLAG(brief) = true;
  const int code = RUN_ALL_TESTS();
  const Status closed = mpi->close(kPatience);
  if (!closed.ok()) std::fprintf(stderr, "%s\n", closed.message().c_str());
  return code != 0 || !closed.ok();
}

}  // namespace longhaul::testing

int main(int argc, char** argv) {
  return longhaul::testing::run_suites(argc, argv);
}
