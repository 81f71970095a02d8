// For every processor: vectors of 4 lanes, which a compiler can also take apart.
#pragma once

#include "attention.hpp"
#include <cstring>

#include "halves.hpp"

namespace mindpress {
namespace attention {
namespace portable {

#define TARGET
constexpr int kLanes = 4;
constexpr int kRows = 4;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline Floats float16_at(const uint8_t* from) {
  uint16_t halves[kLanes];
  std::memcpy(halves, from, sizeof halves);
  Floats x;
  for (int i = 0; i < kLanes; ++i) x[i] = from_float16(halves[i]);
  return x;
}

inline Ints bytes_at(const uint8_t* from) {
  Ints x;
  for (int i = 0; i < kLanes; ++i) x[i] = from[i];
  return x;
}

inline float sum_of(Floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// to [columns][to_stride] = from [kTransposed][from_stride], transposed.
constexpr int kTransposed = 4;
inline void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int i = 0; i < kTransposed; ++i) {
    for (int j = 0; j < kTransposed; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

#include "attention_lanes.inc"
#undef TARGET

}  // namespace portable
}  // namespace attention
}  // namespace mindpress
