// The k-th largest of many floats without sorting them.
#pragma once

#include <bit>
#include <cstdint>

namespace longhaul::cpu {

// Orders as floats do, -0 equal to 0 and NaN below everything.
inline uint32_t order_key(float x) {
  if (x != x) return 0;
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);  // -0 + 0 is 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Cut {
  uint32_t key;    // the k-th largest
  int64_t larger;  // how many are larger than that
};

// for_each(visit) calls visit(key) for every key, the same ones each time, at least k of them; k >= 1.
// Three passes, one for each group of bits from the top: keys that agree in the groups before are counted.
template <class ForEach>
Cut kth_largest(int64_t k, ForEach&& for_each) {
  struct Digit {
    int shift;
    int bits;
  };
  constexpr Digit kDigits[] = {{21, 11}, {10, 11}, {0, 10}};
  Cut cut{0, 0};
  for (const Digit digit : kDigits) {
    uint32_t counts[1 << 11] = {};
    const int prefix_shift = digit.shift + digit.bits;
    const uint64_t prefix = uint64_t{cut.key} >> prefix_shift;
    const uint32_t mask = (1u << digit.bits) - 1;
    for_each([&](uint32_t key) {
      if (uint64_t{key} >> prefix_shift == prefix) ++counts[key >> digit.shift & mask];
    });
    uint32_t value = mask;
    while (value > 0 && cut.larger + counts[value] < k) cut.larger += counts[value--];
    cut.key |= value << digit.shift;
  }
  return cut;
}

}  // namespace longhaul::cpu
