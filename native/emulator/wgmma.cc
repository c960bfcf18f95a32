#include "emulator/wgmma.h"

#include <cstring>
#include <vector>

#include "emulator/block.h"
#include "emulator/tensor_copy.h"
#include "emulator/tile_product.h"

namespace longhaul::emulator {
namespace {

constexpr int kMaxWarpgroups = kMaxThreads / kWarpgroup;
constexpr int kDepth = 16;

struct Queue {
  std::vector<Wgmma> open;
  std::vector<std::vector<Wgmma>> groups;
};
Queue queues[kMaxThreads];
int arrived[kMaxWarpgroups];
Clock finished[kMaxWarpgroups];  // orders the reads of an operation before what any thread does after its wait

float element(MatrixType type, uint32_t bits) {
  return type == MatrixType::kBf16 ? bf16_to_float(static_cast<uint16_t>(bits))
                                   : f16_to_float(static_cast<uint16_t>(bits));
}

// Element (row, k) of the tile a descriptor with 128-byte swizzle names.
float tile_element(const Wgmma& op, uint64_t descriptor, bool transposed, int row, int k) {
  if (descriptor >> 62 != 1) fail("wgmma: only descriptors with 128-byte swizzle are emulated");
  const auto start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const auto leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  const auto stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const auto r = static_cast<uint32_t>(row), c = static_cast<uint32_t>(k);
  const uint32_t linear = transposed ? start + r / 64 * leading + c / 8 * stride + c % 8 * 128 + r % 64 * 2
                                     : start + r / 8 * stride + r % 8 * 128 + c * 2;
  const uint32_t at = swizzled(linear, 128);
  if (at + 2 > current_block->shared_bytes) fail("wgmma: a descriptor reaches past the end of shared memory");
  const unsigned char* data = current_block->shared + at;
  note_read(data, 2);
  uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return element(op.type, bits);
}

// Row and column of accumulator i of thread t of the warpgroup.
int accumulator_row(int t, int i) {
  return t / kWarp * 16 + t % kWarp / 4 + i / 2 % 2 * 8;
}
int accumulator_column(int t, int i) {
  return i / 4 * 8 + t % 4 * 2 + i % 2;
}

void read_a(const std::vector<const Wgmma*>& threads, float* a) {
  const Wgmma& first = *threads[0];
  if (!first.a_in_registers) {
    for (int row = 0; row < 64; ++row)
      for (int k = 0; k < kDepth; ++k) a[row * kDepth + k] = tile_element(first, first.a, false, row, k);
    return;
  }
  for (int t = 0; t < kWarpgroup; ++t)
    for (int i = 0; i < 8; ++i) {  // register i / 2, half i % 2
      const int row = t / kWarp * 16 + t % kWarp / 4 + i / 2 % 2 * 8;
      const int k = t % 4 * 2 + i % 2 + i / 4 * 8;
      a[row * kDepth + k] =
          element(first.type, threads[static_cast<size_t>(t)]->a_registers[i / 2] >> 16 * (i % 2) & 0xffff);
    }
}

void compute(const std::vector<const Wgmma*>& threads) {
  const Wgmma& first = *threads[0];
  const int n = first.n;
  std::vector<float> a(64 * kDepth), b(static_cast<size_t>(n * kDepth)), d(static_cast<size_t>(64 * n), 0.0f);
  read_a(threads, a.data());
  for (int row = 0; row < n; ++row)
    for (int k = 0; k < kDepth; ++k)
      b[static_cast<size_t>(row * kDepth + k)] = tile_element(first, first.b, first.b_transposed, row, k);
  auto at = [&](int t, int i) -> float& {
    return d[static_cast<size_t>(accumulator_row(t, i) * n + accumulator_column(t, i))];
  };
  if (first.accumulate)
    for (int t = 0; t < kWarpgroup; ++t)
      for (int i = 0; i < n / 2; ++i) at(t, i) = threads[static_cast<size_t>(t)]->d[i];
  multiply_tile_k16(d.data(), a.data(), b.data(), 64, n);
  for (int t = 0; t < kWarpgroup; ++t)
    for (int i = 0; i < n / 2; ++i) threads[static_cast<size_t>(t)]->d[i] = at(t, i);
}

void run_oldest_group(int first) {
  const size_t operations = queues[first].groups.front().size();
  for (size_t op = 0; op < operations; ++op) {
    std::vector<const Wgmma*> threads;
    const Wgmma& lead = queues[first].groups.front()[op];
    for (int t = first; t < first + kWarpgroup; ++t) {
      const auto& groups = queues[t].groups;
      if (groups.empty() || groups.front().size() != operations || groups.front()[op].a != lead.a ||
          groups.front()[op].b != lead.b || groups.front()[op].n != lead.n)
        fail("wgmma: the threads of a warpgroup issued different operations");
      threads.push_back(&groups.front()[op]);
    }
    compute(threads);
  }
  for (int t = first; t < first + kWarpgroup; ++t) queues[t].groups.erase(queues[t].groups.begin());
}

}  // namespace

void wgmma_issue(const Wgmma& operation) {
  queues[current_fiber->linear].open.push_back(operation);
}

void wgmma_commit() {
  Queue& queue = queues[current_fiber->linear];
  queue.groups.push_back(std::move(queue.open));
  queue.open.clear();
}

void wgmma_wait(int groups) {
  const int warpgroup = current_fiber->linear / kWarpgroup, first = warpgroup * kWarpgroup;
  if (first + kWarpgroup > current_block->threads) fail("wgmma: the last warpgroup of the block is not whole");
  if (++arrived[warpgroup] < kWarpgroup) {
    current_fiber->state = State::kWarpgroup;
    current_fiber->where = "wgmma.wait_group";
    yield();
    race_acquire(finished[warpgroup]);
    return;
  }
  arrived[warpgroup] = 0;
  while (static_cast<int>(queues[first].groups.size()) > groups) run_oldest_group(first);
  race_release(finished[warpgroup]);
  current_block->wake_all(first, kWarpgroup,
                          [](const Fiber& fiber) { return fiber.state == State::kWarpgroup; });
}

void drop_wgmma() {
  for (Queue& queue : queues) {
    queue.open.clear();
    queue.groups.clear();
  }
  for (int& count : arrived) count = 0;
}

}  // namespace longhaul::emulator
