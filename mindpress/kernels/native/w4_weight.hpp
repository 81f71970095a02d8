// A weight of 4-bit codes as the kernels read it: (code - zero) * scale.
#pragma once

#include <cstdint>
#include <cstring>

// Outputs lie in blocks of 16, one per 32-bit lane. A block is [group][step][output][4] bytes: byte
// i of step s holds input 4 s + i of its group in the low half, and the input half a group further
// in the high half. The last block is filled up with outputs of scale 0.
struct W4Weight {
  const uint8_t* codes;  // [blocks][groups][group / 8][16][4]
  const float* scales;   // [blocks][groups][16]
  const uint8_t* zeros;  // [blocks][groups][16]
  int64_t outputs;       // a multiple of 8
  int64_t inputs;        // a multiple of group
  int64_t group;         // 32, 64 or 128
};

namespace mindpress {

constexpr int kBlock = 16;         // outputs of a block
constexpr int kStep = 4 * kBlock;  // bytes of a step: 8 inputs of each output
constexpr int kLargestGroup = 128;
constexpr int kPrefetched = 96 * kStep;  // bytes ahead

// One group of one block.
struct Group {
  Group(const W4Weight& weight, int64_t block, int64_t group) {
    const int64_t index = block * (weight.inputs / weight.group) + group;
    codes = weight.codes + index * (kBlock / 2) * weight.group;
    scales = weight.scales + index * kBlock;
    zeros = weight.zeros + index * kBlock;
  }

  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;
};

inline int64_t blocks_of(const W4Weight& weight) { return (weight.outputs + kBlock - 1) / kBlock; }

// Codes that will be wanted soon. The first tile of rows reads them from memory, where few rows
// spend their time; the processor's own prefetching is half as fast.
inline void prefetch(const uint8_t* codes) { __builtin_prefetch(codes + kPrefetched); }

// Outputs of a block that are not filling.
inline int columns_of(const W4Weight& weight, int64_t block) {
  const int64_t left = weight.outputs - block * kBlock;
  return left < kBlock ? static_cast<int>(left) : kBlock;
}

// Rows of x are taken in tiles of 8, 4, 2 or 1, the widest first.
inline int tile_rows(int64_t left, int widest) {
  int rows = widest;
  while (rows > left) rows /= 2;
  return rows;
}

// Rows of x as a tile reads them, tile after tile; a tile of R rows is
//   codes [inputs / 4][R][4], figures [groups][2][R] (scales, then sums of the group's codes), or
//   values [inputs][R].
struct Rows {
  int64_t count;
  int8_t* codes;
  float* figures;
  float* values;
};

}  // namespace mindpress
