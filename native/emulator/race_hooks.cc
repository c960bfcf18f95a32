// What -fsanitize=thread makes g++ call in kernel files, defined by us in place of libtsan.
#include <cstdint>
#include <cstring>

#include "emulator/race.h"

using longhaul::emulator::AccessKind;
using longhaul::emulator::race_access;

#define LONGHAUL_HOOK(name, bytes, kind)                                     \
  void name(void* data) {                                                    \
    race_access(data, bytes, AccessKind::kind, __builtin_return_address(0)); \
  }
#define LONGHAUL_HOOKS(bytes)                                 \
  LONGHAUL_HOOK(__tsan_read##bytes, bytes, kRead)             \
  LONGHAUL_HOOK(__tsan_write##bytes, bytes, kWrite)           \
  LONGHAUL_HOOK(__tsan_unaligned_read##bytes, bytes, kRead)   \
  LONGHAUL_HOOK(__tsan_unaligned_write##bytes, bytes, kWrite) \
  LONGHAUL_HOOK(__tsan_volatile_read##bytes, bytes, kRead)    \
  LONGHAUL_HOOK(__tsan_volatile_write##bytes, bytes, kWrite)

extern "C" {

LONGHAUL_HOOKS(1)
LONGHAUL_HOOKS(2)
LONGHAUL_HOOKS(4)
LONGHAUL_HOOKS(8)
LONGHAUL_HOOKS(16)

void __tsan_read_range(void* data, size_t bytes) {
  race_access(data, bytes, AccessKind::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* data, size_t bytes) {
  race_access(data, bytes, AccessKind::kWrite, __builtin_return_address(0));
}
void* longhaul_race_memcpy(void* to, const void* from, size_t bytes) {
  race_access(from, bytes, AccessKind::kRead, __builtin_return_address(0));
  race_access(to, bytes, AccessKind::kWrite, __builtin_return_address(0));
  return std::memcpy(to, from, bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Atomics of host code in kernel files: guards of local statics, counts of shared pointers.
uint8_t __tsan_atomic8_load(const uint8_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic8_store(uint8_t* p, uint8_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint8_t __tsan_atomic8_exchange(uint8_t* p, uint8_t v, int) {
  return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_load(const uint32_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic32_store(uint32_t* p, uint32_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_fetch_add(uint32_t* p, uint32_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_load(const uint64_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic64_store(uint64_t* p, uint64_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_fetch_add(uint64_t* p, uint64_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

}  // extern "C"
