// Device memory: one range of addresses that host code cannot touch. A pointer of the device that the host
// follows is a segmentation fault here as it is there, and memory nobody has written is NaN.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "emulator/address_sanitizer.h"
#include "emulator/runtime.h"

namespace longhaul::emulator {
namespace {

constexpr size_t kReserved = size_t{64} << 30;  // addresses, not memory
constexpr size_t kAlignment = 256;
constexpr size_t kPageBytes = size_t{2} << 20;  // protection changes page by page: few large ones are quick
constexpr unsigned char kPoison = 0xff;
constexpr unsigned char kCanary = 0xfe;  // NaN as f16, huge as f32 and bf16: what is read there is loud too
constexpr size_t kCanaryBytes = 256;     // at least so much lies between two allocations

struct Arena {
  unsigned char* base = nullptr;
  size_t used_end = 0;                  // offset behind the highest allocation there ever was
  std::map<size_t, size_t> allocated;   // offset, bytes asked for
  std::map<size_t, size_t> free_spans;  // offset, bytes
  size_t bytes_in_use = 0;
  int access = 0;
};

Arena& arena() {
  static Arena arena;
  if (arena.base == nullptr) {
    void* map = ::mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return arena;
    const size_t into = reinterpret_cast<uintptr_t>(map) % kPageBytes;
    arena.base = static_cast<unsigned char*>(map) + (into == 0 ? 0 : kPageBytes - into);
    ::madvise(arena.base, kReserved - kPageBytes, MADV_HUGEPAGE);
  }
  return arena;
}

size_t rounded(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}
// With its canary.
size_t span_of(size_t bytes) {
  return rounded(bytes, kAlignment) + kCanaryBytes;
}

void protect(int protection) {
  Arena& all = arena();
  if (all.used_end > 0) ::mprotect(all.base, rounded(all.used_end, kPageBytes), protection);
}

std::map<const void*, size_t>& pinned() {
  static std::map<const void*, size_t> blocks;
  return blocks;
}

// The entry of a map of disjoint ranges that holds `at`.
template <class Map, class Key>
auto holding(Map& map, Key at) {
  auto next = map.upper_bound(at);
  return next == map.begin() ? map.end() : std::prev(next);
}

size_t take_span(size_t bytes) {
  Arena& all = arena();
  for (auto span = all.free_spans.begin(); span != all.free_spans.end(); ++span) {
    if (span->second < bytes) continue;
    const auto [offset, size] = *span;
    all.free_spans.erase(span);
    if (size > bytes) all.free_spans[offset + bytes] = size - bytes;
    return offset;
  }
  const size_t offset = all.used_end;
  all.used_end += bytes;
  return offset;
}

void give_span(size_t offset, size_t bytes) {
  auto& spans = arena().free_spans;
  auto next = spans.lower_bound(offset);
  if (next != spans.end() && offset + bytes == next->first) {
    bytes += next->second;
    next = spans.erase(next);
  }
  if (next != spans.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  spans[offset] = bytes;
}

}  // namespace

DeviceAccess::DeviceAccess() {
  if (arena().access++ == 0) protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (--arena().access == 0) protect(PROT_NONE);
}

void* allocate_device(size_t bytes) {
  Arena& all = arena();
  if (all.base == nullptr || bytes > runtime().model.memory_bytes - all.bytes_in_use) return nullptr;
  const size_t span = span_of(bytes);
  const size_t offset = take_span(span);
  unsigned char* data = all.base + offset;
  {
    const DeviceAccess access;
    permit(data, span);
    std::memset(data, kPoison, bytes);
    std::memset(data + bytes, kCanary, span - bytes);
    forbid(data + bytes, span - bytes);
  }
  all.allocated[offset] = bytes;
  all.bytes_in_use += bytes;
  return data;
}

bool free_device(void* data) {
  Arena& all = arena();
  const auto found = all.allocated.find(static_cast<size_t>(static_cast<unsigned char*>(data) - all.base));
  if (found == all.allocated.end()) return false;
  const auto [offset, bytes] = *found;
  all.allocated.erase(found);
  all.bytes_in_use -= bytes;
  const size_t span = span_of(bytes);
  {
    const DeviceAccess access;
    permit(data, span);
    std::memset(data, kPoison, span);
    forbid(data, span);
  }
  give_span(offset, span);
  return true;
}

bool is_device(const void* data) {
  const Arena& all = arena();
  const auto* at = static_cast<const unsigned char*>(data);
  return at >= all.base && at < all.base + all.used_end;
}

bool in_allocation(const void* data, size_t bytes) {
  Arena& all = arena();
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(data) - all.base);
  const auto found = holding(all.allocated, offset);
  return found != all.allocated.end() && offset + bytes <= found->first + found->second;
}

size_t device_bytes_in_use() {
  return arena().bytes_in_use;
}

const char* check_device_canaries() {
  static char message[160];
  const DeviceAccess access;
  const char* found = nullptr;
  for (const auto& [offset, bytes] : arena().allocated) {
    const unsigned char* end = arena().base + offset + bytes;
    const size_t canary = span_of(bytes) - bytes;
    permit(end, canary);
    for (size_t i = 0; i < canary && found == nullptr; ++i) {
      if (end[i] == kCanary) continue;
      std::snprintf(message, sizeof message,
                    "device memory written %zu bytes past the end of an allocation of %zu bytes", i, bytes);
      found = message;
    }
    forbid(end, canary);
  }
  return found;
}

void* allocate_pinned(size_t bytes) {
  void* data = std::malloc(bytes > 0 ? bytes : 1);
  if (data == nullptr) return nullptr;
  std::memset(data, kPoison, bytes);
  pinned()[data] = bytes;
  return data;
}

bool free_pinned(void* data) {
  if (pinned().erase(data) == 0) return false;
  std::free(data);
  return true;
}

bool is_pinned(const void* data) {
  const auto found = holding(pinned(), data);
  return found != pinned().end() &&
         static_cast<const char*>(data) < static_cast<const char*>(found->first) + found->second;
}

}  // namespace longhaul::emulator
