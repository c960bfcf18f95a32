#include "emulator/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

#include "emulator/address_sanitizer.h"
#include "emulator/context_switch.h"
#include "emulator/tensor_copy.h"
#include "emulator/wgmma.h"

namespace longhaul::emulator {

Block* current_block = nullptr;
Fiber* current_fiber = nullptr;

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStack = (kAddressSanitizer ? 256 : 64) << 10;
constexpr unsigned char kPoison = 0xff;  // NaN as f32, bf16 and f16
constexpr unsigned char kCanary = 0xfe;  // NaN as f16, huge as f32 and bf16: what is read there is loud too
constexpr size_t kCanaryBytes = 512;

// Readable and writable memory that ends in a page nobody can touch; `guard_first` puts one in front instead.
unsigned char* map_guarded(size_t bytes, bool guard_first) {
  void* map = ::mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* begin = static_cast<unsigned char*>(map);
  ::mprotect(guard_first ? begin : begin + bytes, kPage, PROT_NONE);
  return guard_first ? begin + kPage : begin;
}

}  // namespace

void fiber_entry() {
  Block& block = *current_block;
  // AddressSanitizer tells a new fiber where the stack it came from lies; we keep it when that is the OS
  // thread's.
  const bool from_main = block.from_main_;
  after_switch(nullptr, from_main ? &block.main_bottom_ : nullptr, from_main ? &block.main_size_ : nullptr);
  (*block.body)();
  Fiber* fiber = current_fiber;
  fiber->open_copies.clear();
  fiber->groups.clear();
  fiber->state = State::kDone;
  --block.live;
  block.release_barriers();
  for (;;) yield();  // never resumed
}

void yield() {
  Block& block = *current_block;
  Fiber* from = current_fiber;
  Fiber* to = block.error[0] == '\0' ? block.pick() : nullptr;
  if (to == from) return;
  current_fiber = to;
  block.from_main_ = false;
  before_switch(from->state == State::kDone ? nullptr : &from->fake_stack, to ? to->stack : block.main_bottom_,
                to ? kStack : block.main_size_);
  longhaul_emulator_switch(&from->stack_pointer, to ? to->stack_pointer : block.main_stack_pointer_);
  after_switch(from->fake_stack, nullptr, nullptr);
}

void fail(const char* format, ...) {
  Block& block = *current_block;
  if (block.error[0] == '\0') {
    const uint3 tid = current_fiber->tid;
    const int head =
        std::snprintf(block.error, sizeof block.error, "block (%u,%u,%u) thread (%u,%u,%u): ", block.index.x,
                      block.index.y, block.index.z, tid.x, tid.y, tid.z);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(block.error + head, sizeof block.error - static_cast<size_t>(head), format, arguments);
    va_end(arguments);
  }
  current_fiber->state = State::kBlockBarrier;
  current_fiber->where = "failed";
  for (;;) yield();  // abandoned: an error sends every yield back to Block::run
}

void check_shared_range(const char* op, const void* data, size_t bytes) {
  const auto offset = static_cast<const unsigned char*>(data) - current_block->shared;
  if (offset < 0 || static_cast<size_t>(offset) + bytes > current_block->shared_bytes)
    fail("%s: an address outside the block's shared memory (offset %td of %zu bytes)", op, offset,
         current_block->shared_bytes);
}

void Block::wake(int thread) {
  fibers[static_cast<size_t>(thread)].state = State::kReady;
  ready_[(ready_head_ + ready_count_++) % kMaxThreads] = thread;
}

Fiber* Block::pick() {
  if (ready_count_ == 0) return nullptr;
  if (schedule().order == Order::kRandom) {
    const int other = static_cast<int>(random.below(static_cast<uint64_t>(ready_count_)));
    std::swap(ready_[ready_head_], ready_[(ready_head_ + other) % kMaxThreads]);
  }
  const int thread = ready_[ready_head_];
  ready_head_ = (ready_head_ + 1) % kMaxThreads;
  --ready_count_;
  return &fibers[static_cast<size_t>(thread)];
}

void Block::reserve() {
  if (shared == nullptr) shared = map_guarded(kMaxSharedBytes + kCanaryBytes + 1024, false);
  if (!collectives) collectives = std::make_unique<Collective[]>(kMaxThreads);
  while (fibers.size() < static_cast<size_t>(threads)) {
    Fiber fiber;
    fiber.stack = map_guarded(kStack, true);
    fibers.push_back(std::move(fiber));
  }
}

void Block::start_fiber(int thread) {
  Fiber& fiber = fibers[static_cast<size_t>(thread)];
  const unsigned linear = static_cast<unsigned>(thread);
  fiber.linear = thread;
  fiber.tid = {linear % block_dim.x, linear / block_dim.x % block_dim.y, linear / (block_dim.x * block_dim.y)};
  fiber.open_copies.clear();
  fiber.groups.clear();
  fiber.fake_stack = nullptr;
  // Tops are spread over the cache's sets: page-aligned stacks would all fight for the same few.
  fiber.stack_pointer = make_stack(fiber.stack + kStack - linear % 64 * 448, &fiber_entry);
  wake(thread);
}

// Memory nobody has written is NaN; behind its end lies a canary, forbidden where AddressSanitizer can enforce
// it.
void Block::paint_shared() {
  permit(shared, kMaxSharedBytes + kCanaryBytes);
  std::memset(shared, kPoison, shared_bytes);
  std::memset(shared + shared_bytes, kCanary, kCanaryBytes);
  forbid(shared + shared_bytes, kMaxSharedBytes + kCanaryBytes - shared_bytes);
}

void Block::check_shared() {
  permit(shared, kMaxSharedBytes + kCanaryBytes);
  for (size_t i = 0; i < kCanaryBytes; ++i) {
    if (shared[shared_bytes + i] == kCanary) continue;
    std::snprintf(error, sizeof error,
                  "block (%u,%u,%u): shared memory written %zu bytes past its end (%zu bytes)", index.x,
                  index.y, index.z, i, shared_bytes);
    return;
  }
}

void Block::report_deadlock() {
  size_t at = static_cast<size_t>(std::snprintf(
      error, sizeof error, "block (%u,%u,%u): deadlock, %d threads live: ", index.x, index.y, index.z, live));
  // One thread for each place they wait in says what a list of a thousand would.
  const char* seen[4] = {};
  int places = 0;
  for (const Fiber& fiber : fibers) {
    if (&fiber - fibers.data() >= threads || fiber.state == State::kDone) continue;
    if (std::find(seen, seen + places, fiber.where) != seen + places) continue;
    if (places == 4 || at >= sizeof error) break;
    seen[places++] = fiber.where;
    at += static_cast<size_t>(
        std::snprintf(error + at, sizeof error - at, "thread %d waits in %s; ", fiber.linear, fiber.where));
  }
}

void Block::enter(Fiber* fiber) {
  current_fiber = fiber;
  from_main_ = true;
  before_switch(&main_fake_stack_, fiber->stack, kStack);
  longhaul_emulator_switch(&main_stack_pointer_, fiber->stack_pointer);
  after_switch(main_fake_stack_, nullptr, nullptr);
}

void Block::run() {
  reserve();
  error[0] = '\0';
  live = threads;
  ready_head_ = ready_count_ = 0;
  for (Barrier& barrier : barriers) barrier = Barrier{};
  for (int i = 0; i < (threads + kWarp - 1) / kWarp * kWarp; ++i)
    collectives[static_cast<size_t>(i)].arrived = 0;
  paint_shared();
  current_block = this;
  race_begin_block();
  const bool reverse = schedule().order == Order::kReverse;
  for (int i = 0; i < threads; ++i) start_fiber(reverse ? threads - 1 - i : i);
  while (error[0] == '\0') {
    Fiber* fiber = pick();
    if (fiber == nullptr) break;
    enter(fiber);
  }
  if (error[0] == '\0' && live > 0) report_deadlock();
  if (error[0] == '\0') check_shared();
  if (error[0] != '\0') {
    // Frames that were abandoned leave their redzones behind.
    for (Fiber& fiber : fibers) permit(fiber.stack, kStack);
  }
  permit(shared, kMaxSharedBytes + kCanaryBytes);
  drop_bulk_copies();
  drop_wgmma();
  current_block = nullptr;
  current_fiber = nullptr;
}

}  // namespace longhaul::emulator
