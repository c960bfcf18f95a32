// Shuffles, votes, matches and reductions of a warp, and __syncwarp, by their CUDA names.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/collective.h"

namespace longhaul::emulator {

// Bits of the value of `source`; a lane's own for a source outside its segment (-1).
uint64_t shuffle_bits(uint32_t mask, const char* op, uint64_t bits, int source);
uint32_t ballot(uint32_t mask, const char* op, bool predicate);
uint32_t match_any(uint32_t mask, uint64_t bits);
void sync_warp(uint32_t mask);
uint32_t active_mask();

template <class T>
T shuffle(uint32_t mask, const char* op, T value, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle_bits(mask, op, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Folds the values of the mask's lanes in the order of lanes, so that integers of any operation give one
// result.
template <class T, class Fold>
T reduce_integers(uint32_t mask, const char* op, T value, Fold fold) {
  T total = value;
  bool first = true;
  each_lane(mask, [&](int lane) {
    const T other = shuffle(mask, op, value, lane);
    total = first ? other : fold(total, other);
    first = false;
  });
  return total;
}

}  // namespace longhaul::emulator

constexpr int warpSize = 32;

inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  longhaul::emulator::sync_warp(mask);
}

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = warpSize) {
  const int lane = longhaul::emulator::lane_id();
  return longhaul::emulator::shuffle(mask, "__shfl_sync", value,
                                     (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = warpSize) {
  const int lane = longhaul::emulator::lane_id(), source = lane ^ lanes;
  const bool inside =
      (source & ~(width - 1)) <= (lane & ~(width - 1));  // lower segments may be read, higher not
  return longhaul::emulator::shuffle(mask, "__shfl_xor_sync", value, inside ? source : -1);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = warpSize) {
  const int lane = longhaul::emulator::lane_id(), source = lane + static_cast<int>(delta);
  return longhaul::emulator::shuffle(mask, "__shfl_down_sync", value,
                                     source / width == lane / width ? source : -1);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = warpSize) {
  const int lane = longhaul::emulator::lane_id(), source = lane - static_cast<int>(delta);
  return longhaul::emulator::shuffle(mask, "__shfl_up_sync", value,
                                     source >= (lane & ~(width - 1)) ? source : -1);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  return longhaul::emulator::ballot(mask, "__ballot_sync", predicate != 0);
}
inline int __any_sync(uint32_t mask, int predicate) {
  return longhaul::emulator::ballot(mask, "__any_sync", predicate != 0) != 0;
}
inline int __all_sync(uint32_t mask, int predicate) {
  return longhaul::emulator::ballot(mask, "__all_sync", predicate != 0) == mask;
}
inline uint32_t __activemask() {
  return longhaul::emulator::active_mask();
}

template <class T>
inline uint32_t __match_any_sync(uint32_t mask, T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return longhaul::emulator::match_any(mask, bits);
}

template <class T>
inline T __reduce_add_sync(uint32_t mask, T value) {
  return longhaul::emulator::reduce_integers(mask, "__reduce_add_sync", value,
                                             [](T a, T b) { return T(a + b); });
}
template <class T>
inline T __reduce_min_sync(uint32_t mask, T value) {
  return longhaul::emulator::reduce_integers(mask, "__reduce_min_sync", value,
                                             [](T a, T b) { return a < b ? a : b; });
}
template <class T>
inline T __reduce_max_sync(uint32_t mask, T value) {
  return longhaul::emulator::reduce_integers(mask, "__reduce_max_sync", value,
                                             [](T a, T b) { return a > b ? a : b; });
}
template <class T>
inline T __reduce_or_sync(uint32_t mask, T value) {
  return longhaul::emulator::reduce_integers(mask, "__reduce_or_sync", value,
                                             [](T a, T b) { return T(a | b); });
}
template <class T>
inline T __reduce_and_sync(uint32_t mask, T value) {
  return longhaul::emulator::reduce_integers(mask, "__reduce_and_sync", value,
                                             [](T a, T b) { return T(a & b); });
}
