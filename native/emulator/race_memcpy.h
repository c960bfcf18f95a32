// Forced into every kernel file of a race build: memcpy goes by way of the race detector (race_hooks.cc).
#pragma once

#include <stddef.h>

extern "C" void* memcpy(void* __restrict to, const void* __restrict from, size_t bytes) noexcept
    __asm__("longhaul_race_memcpy");
