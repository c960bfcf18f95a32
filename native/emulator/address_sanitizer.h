// What AddressSanitizer must be told: that we change stacks, and which memory nobody may touch. Nothing without
// it.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace longhaul::emulator {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
inline void forbid(const void* data, size_t bytes) {
  __asan_poison_memory_region(data, bytes);
}
inline void permit(const void* data, size_t bytes) {
  __asan_unpoison_memory_region(data, bytes);
}
// Before and after a switch of stacks. `save` null: the stack that is left will never be resumed.
inline void before_switch(void** save, const void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(save, bottom, size);
}
inline void after_switch(void* saved, const void** old_bottom, size_t* old_size) {
  __sanitizer_finish_switch_fiber(saved, old_bottom, old_size);
}
#else
constexpr bool kAddressSanitizer = false;
inline void forbid(const void*, size_t) {}
inline void permit(const void*, size_t) {}
inline void before_switch(void**, const void*, size_t) {}
inline void after_switch(void*, const void**, size_t*) {}
#endif

}  // namespace longhaul::emulator
