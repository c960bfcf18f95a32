// Operations that the lanes of a warp do together. Each lane leaves its input and waits; the last to arrive
// computes the outputs of all. Lanes that meet in different operations, or with different masks, are reported.
#pragma once

#include <cstring>
#include <type_traits>

#include "emulator/block.h"

namespace longhaul::emulator {

using CollectiveIn = const unsigned char (*)[64];
using CollectiveOut = unsigned char (*)[64];
using CollectiveFunction = void (*)(CollectiveIn in, CollectiveOut out, uint32_t mask);

// The untyped heart: `in` and `out` are at most 64 bytes. `op` is compared as a pointer to text: one literal an
// op.
void collective_bytes(uint32_t mask, const char* op, const void* in, size_t in_bytes, void* out,
                      size_t out_bytes, CollectiveFunction compute);

template <class T>
T read_lane(CollectiveIn in, int lane) {
  T value;
  std::memcpy(&value, in[lane], sizeof value);
  return value;
}
template <class T>
void write_lane(CollectiveOut out, int lane, const T& value) {
  std::memcpy(out[lane], &value, sizeof value);
}

template <class Out, class In>
Out collective(uint32_t mask, const char* op, const In& in, CollectiveFunction compute) {
  static_assert(sizeof(In) <= 64 && sizeof(Out) <= 64);
  static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  Out out;
  collective_bytes(mask, op, &in, sizeof in, &out, sizeof out, compute);
  return out;
}

// Calls `visit(lane)` for each lane of the mask, lowest first.
template <class Visit>
void each_lane(uint32_t mask, Visit visit) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) visit(__builtin_ctz(rest));
}

}  // namespace longhaul::emulator
