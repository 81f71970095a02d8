// A weight of int8 codes as the kernels read it, with a scale for each output.
#pragma once

#include <cstdint>
#include <cstring>

// Outputs lie in blocks of 16, one per 32-bit lane; the last block and the last inputs are filled
// up with codes of 0. No code is -128.
struct W8Weight {
  const int8_t* codes;  // [blocks][inputs / 4][16][4]
  const float* scales;  // [blocks][16]
  int64_t outputs;
  int64_t inputs;       // a multiple of 4
};

namespace mindpress {
namespace w8 {

constexpr int kBlock = 16;
constexpr int kStep = 4 * kBlock;        // bytes: 4 inputs of each output
constexpr int kPrefetched = 64 * kStep;  // bytes ahead, as in w4_weight.hpp

// int8 codes of rows, what they are multiplied with, and 128 times their sums.
struct Rows {
  int64_t count, inputs;
  const int8_t* codes;
  const float* scales;
  const int32_t* sums;
};

inline int columns_of(const W8Weight& weight, int64_t block) {
  const int64_t left = weight.outputs - block * kBlock;
  return left < kBlock ? static_cast<int>(left) : kBlock;
}

inline int32_t four_codes(const int8_t* from) {
  int32_t codes;
  std::memcpy(&codes, from, sizeof codes);
  return codes;
}

// y [columns] of one row from its 16 exact sums, in the order of matmul_w8a8_reference.
inline void scale_row(const W8Weight& weight, int64_t block, const int32_t* sums, float scale,
                      float* y) {
  const float* scales = weight.scales + block * kBlock;
  const int columns = columns_of(weight, block);
  for (int n = 0; n < columns; ++n) y[n] = static_cast<float>(sums[n]) * scale * scales[n];
}

}  // namespace w8
}  // namespace mindpress
