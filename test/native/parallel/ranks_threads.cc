#include <thread>

#include "devices.h"
#include "parallel/thread_transport.h"
#include "ranks.h"

namespace longhaul::testing {

std::vector<int> world_sizes() {
  return {1, 2, 4, 8};
}

void on_ranks(int size, const std::string& device, const std::function<void(Rank&)>& body,
              std::chrono::milliseconds timeout) {
  std::vector<std::thread> threads;
  for (auto& transport : make_thread_transports(size)) {
    threads.emplace_back([&, end = std::move(transport)]() mutable {
      auto backend = make_rank_device(device);
      ASSERT_OK(backend.status());
      auto stream = backend.value()->make_stream();
      ASSERT_OK(stream.status());
      const auto world = Communicator::create(std::move(end), *backend.value(), timeout);
      Rank rank{*world, *backend.value(), *stream.value()};
      body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace longhaul::testing
