// For processors with AVX2, FMA and F16C.
#pragma once

#include "attention.hpp"
#include "transpose_avx2.hpp"

namespace mindpress {
namespace attention {
namespace avx2 {

#define TARGET TARGET_AVX2
constexpr int kLanes = 8;
constexpr int kRows = 6;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

TARGET inline Floats float16_at(const uint8_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// Not __builtin_convertvector: GCC makes it of several instructions.
TARGET inline Ints bytes_at(const uint8_t* from) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Ints>(_mm256_cvtepu8_epi32(bytes));
}

TARGET inline float sum_of(Floats x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

constexpr int kTransposed = 8;
TARGET inline void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  transpose_8x8(from, from_stride, to, to_stride);
}

#include "attention_lanes.inc"
#undef TARGET

}  // namespace avx2
}  // namespace attention
}  // namespace mindpress
