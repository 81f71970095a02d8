// For processors with AVX-512.
#pragma once

#include "attention.hpp"
#include "transpose_avx2.hpp"

namespace mindpress {
namespace attention {
namespace avx512 {

#define TARGET TARGET_AVX512
constexpr int kLanes = 16;
constexpr int kRows = 12;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

TARGET inline Floats float16_at(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

TARGET inline Ints bytes_at(const uint8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Ints>(_mm512_cvtepu8_epi32(bytes));
}

TARGET inline float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }

constexpr int kTransposed = 8;
TARGET inline void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  transpose_8x8(from, from_stride, to, to_stride);
}

#include "attention_lanes.inc"
#undef TARGET

}  // namespace avx512
}  // namespace attention
}  // namespace mindpress
