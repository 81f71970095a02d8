// For processors with AVX-512 and its int8 dot products (VNNI).
#pragma once

#include <immintrin.h>

#include "instructions.hpp"
#include "w4_weight.hpp"

namespace mindpress {
namespace avx512 {

#define TARGET TARGET_AVX512
constexpr int kLanes = 16;
constexpr int kRows = 8;
constexpr int kTogether = 1;

TARGET inline __m512i four_codes(const int8_t* x) {
  int32_t codes;
  std::memcpy(&codes, x, sizeof codes);
  return _mm512_set1_epi32(codes);
}

// vpdpbusd adds four products to a 32-bit lane without saturating.
template <int ROWS>
TARGET inline void int8_tile(const W4Weight& weight, int64_t block, int /* 1 */, const int8_t* x,
                             const float* figures, float* y, int64_t stride) {
  constexpr int kChains = ROWS >= 4 ? 1 : 4 / ROWS;  // sums that do not wait for one another
  const int half = static_cast<int>(weight.group) / 2;
  const __m512i mask = _mm512_set1_epi8(15);
  __m512 total[ROWS];
  for (int m = 0; m < ROWS; ++m) total[m] = _mm512_setzero_ps();
  for (int64_t g = 0; g < weight.inputs / weight.group; ++g) {
    const Group group(weight, block, g);
    __m512i sums[kChains][ROWS];
    for (int chain = 0; chain < kChains; ++chain) {
      for (int m = 0; m < ROWS; ++m) sums[chain][m] = _mm512_setzero_si512();
    }
    for (int begin = 0; begin < half; begin += 16) {
#pragma GCC unroll 4
      for (int step = 0; step < 4; ++step) {
        const int k = begin + 4 * step;
        const uint8_t* codes = group.codes + k * kBlock;
        prefetch(codes);
        const __m512i packed = _mm512_loadu_si512(codes);
        const __m512i low = _mm512_and_si512(packed, mask);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) {
          const int8_t* codes_of_x = x + k * ROWS + 4 * m;
          __m512i& a = sums[2 * step % kChains][m];
          a = _mm512_dpbusd_epi32(a, low, four_codes(codes_of_x));
          __m512i& b = sums[(2 * step + 1) % kChains][m];
          b = _mm512_dpbusd_epi32(b, high, four_codes(codes_of_x + half * ROWS));
        }
      }
    }
    const __m512 scale = _mm512_loadu_ps(group.scales);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(group.zeros));
    const __m512 zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m) {
      __m512i sum = sums[0][m];
#pragma GCC unroll 4
      for (int chain = 1; chain < kChains; ++chain) sum = _mm512_add_epi32(sum, sums[chain][m]);
      const __m512 codes_sum = _mm512_set1_ps(figures[ROWS + m]);
      const __m512 value = _mm512_fnmadd_ps(zero, codes_sum, _mm512_cvtepi32_ps(sum));
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(figures[m]));
      total[m] = _mm512_fmadd_ps(value, factor, total[m]);
    }
    x += weight.group * ROWS;
    figures += 2 * ROWS;
  }
  const __mmask16 kept = static_cast<__mmask16>((1u << columns_of(weight, block)) - 1);
  for (int m = 0; m < ROWS; ++m) _mm512_mask_storeu_ps(y + m * stride, kept, total[m]);
}

#include "w4_lanes.inc"
#undef TARGET

}  // namespace avx512
}  // namespace mindpress
