// For every processor: vectors of 4 lanes, which a compiler can also take apart.
#pragma once

#include "w4_weight.hpp"

namespace mindpress {
namespace portable {

#define TARGET
constexpr int kLanes = 4;
constexpr int kRows = 4;
constexpr int kTogether = 1;

template <int ROWS>
inline void int8_tile(const W4Weight& weight, int64_t block, int /* 1 */, const int8_t* x,
                      const float* figures, float* y, int64_t stride) {
  const int half = static_cast<int>(weight.group) / 2;
  const int columns = columns_of(weight, block);
  float total[ROWS][kBlock] = {};
  for (int64_t g = 0; g < weight.inputs / weight.group; ++g) {
    const Group group(weight, block, g);
    int32_t sums[ROWS][kBlock] = {};
    for (int k = 0; k < half; ++k) {
      const uint8_t* codes = group.codes + k / 4 * kStep + k % 4;
      const int8_t* low = x + k / 4 * 4 * ROWS + k % 4;
      const int8_t* high = low + half * ROWS;
      for (int m = 0; m < ROWS; ++m) {
        for (int n = 0; n < kBlock; ++n) {
          sums[m][n] += (codes[4 * n] & 15) * low[4 * m] + (codes[4 * n] >> 4) * high[4 * m];
        }
      }
    }
    for (int m = 0; m < ROWS; ++m) {
      for (int n = 0; n < kBlock; ++n) {
        const float value = static_cast<float>(sums[m][n]) - group.zeros[n] * figures[ROWS + m];
        total[m][n] += value * (group.scales[n] * figures[m]);
      }
    }
    x += weight.group * ROWS;
    figures += 2 * ROWS;
  }
  for (int m = 0; m < ROWS; ++m) std::memcpy(y + m * stride, total[m], sizeof(float) * columns);
}

#include "w4_lanes.inc"
#undef TARGET

}  // namespace portable
}  // namespace mindpress
