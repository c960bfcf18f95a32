#include "emulator/async_copy.h"

#include <cstring>
#include <utility>

#include "emulator/block.h"

namespace longhaul::emulator {
namespace {

void land(const AsyncCopy& copy) {
  std::memcpy(copy.target, copy.source, static_cast<size_t>(copy.source_bytes));
  std::memset(static_cast<char*>(copy.target) + copy.source_bytes, 0,
              static_cast<size_t>(copy.bytes - copy.source_bytes));
  note_write(copy.target, static_cast<size_t>(copy.bytes));
}

}  // namespace

void async_copy(void* target, const void* source, int bytes, int source_bytes) {
  const auto addresses = reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source);
  if (addresses % static_cast<uintptr_t>(bytes) != 0)
    fail("cp.async: an address is not a multiple of %d bytes", bytes);
  if (source_bytes < 0 || source_bytes > bytes) fail("cp.async: %d of %d bytes", source_bytes, bytes);
  check_shared_range("cp.async", target, static_cast<size_t>(bytes));
  note_write(target, static_cast<size_t>(bytes));
  std::memset(target, 0xff, static_cast<size_t>(bytes));
  current_fiber->open_copies.push_back({target, source, bytes, source_bytes});
}

void async_commit() {
  current_fiber->groups.push_back(std::move(current_fiber->open_copies));
  current_fiber->open_copies.clear();
}

void async_wait(int groups) {
  auto& committed = current_fiber->groups;
  while (static_cast<int>(committed.size()) > groups) {
    for (const AsyncCopy& copy : committed.front()) land(copy);
    committed.erase(committed.begin());
  }
}

void async_wait_all() {
  async_commit();
  async_wait(0);
}

}  // namespace longhaul::emulator
