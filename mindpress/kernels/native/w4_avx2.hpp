// For processors with AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include "instructions.hpp"
#include "w4_weight.hpp"

namespace mindpress {
namespace avx2 {

#define TARGET TARGET_AVX2
constexpr int kLanes = 8;
constexpr int kRows = 4;

TARGET inline __m256i four_codes(const int8_t* x) {
  int32_t codes;
  std::memcpy(&codes, x, sizeof codes);
  return _mm256_set1_epi32(codes);
}

// Outputs `first` to `first + 8 PARTS` of a block. A product of vpmaddubsw is at most
// 2 * 15 * 127 = 3810 (15 * 128 * 2 with a code of -128), so eight of them fit a 16-bit sum.
template <int ROWS, int PARTS>
TARGET inline void int8_part(const W4Weight& weight, int64_t block, int first, const int8_t* x,
                             const float* figures, float* y, int64_t stride) {
  const int half = static_cast<int>(weight.group) / 2;
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 total[PARTS][ROWS];
  for (int part = 0; part < PARTS; ++part) {
    for (int m = 0; m < ROWS; ++m) total[part][m] = _mm256_setzero_ps();
  }
  for (int64_t g = 0; g < weight.inputs / weight.group; ++g) {
    const Group group(weight, block, g);
    __m256i sums[PARTS][ROWS];
    for (int part = 0; part < PARTS; ++part) {
      for (int m = 0; m < ROWS; ++m) sums[part][m] = _mm256_setzero_si256();
    }
    for (int begin = 0; begin < half; begin += 16) {
      __m256i shorts[PARTS][ROWS];
      for (int part = 0; part < PARTS; ++part) {
        for (int m = 0; m < ROWS; ++m) shorts[part][m] = _mm256_setzero_si256();
      }
#pragma GCC unroll 4
      for (int k = begin; k < begin + 16; k += 4) {
#pragma GCC unroll 2
        for (int part = 0; part < PARTS; ++part) {
          const uint8_t* codes = group.codes + k * kBlock + 4 * (first + part * kLanes);
          prefetch(codes);
          const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
          const __m256i low = _mm256_and_si256(packed, mask);
          const __m256i high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask);
#pragma GCC unroll 4
          for (int m = 0; m < ROWS; ++m) {
            const int8_t* codes_of_x = x + k * ROWS + 4 * m;
            const __m256i a = _mm256_maddubs_epi16(low, four_codes(codes_of_x));
            const __m256i b = _mm256_maddubs_epi16(high, four_codes(codes_of_x + half * ROWS));
            __m256i& sum = shorts[part][m];
            sum = _mm256_add_epi16(_mm256_add_epi16(sum, a), b);
          }
        }
      }
      for (int part = 0; part < PARTS; ++part) {
        for (int m = 0; m < ROWS; ++m) {
          const __m256i wide = _mm256_madd_epi16(shorts[part][m], ones);
          sums[part][m] = _mm256_add_epi32(sums[part][m], wide);
        }
      }
    }
    for (int part = 0; part < PARTS; ++part) {
      const int from = first + part * kLanes;
      const __m256 scale = _mm256_loadu_ps(group.scales + from);
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(group.zeros + from));
      const __m256 zero = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
      for (int m = 0; m < ROWS; ++m) {
        const __m256 codes_sum = _mm256_set1_ps(figures[ROWS + m]);
        const __m256 value = _mm256_fnmadd_ps(zero, codes_sum, _mm256_cvtepi32_ps(sums[part][m]));
        const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(figures[m]));
        total[part][m] = _mm256_fmadd_ps(value, factor, total[part][m]);
      }
    }
    x += weight.group * ROWS;
    figures += 2 * ROWS;
  }
  for (int part = 0; part < PARTS; ++part) {
    const int from = first + part * kLanes;
    if (from >= columns_of(weight, block)) continue;
    for (int m = 0; m < ROWS; ++m) _mm256_storeu_ps(y + m * stride + from, total[part][m]);
  }
}

// Both halves of a block at once where 16 registers hold the sums.
template <int ROWS>
TARGET inline void int8_tile(const W4Weight& weight, int64_t block, const int8_t* x,
                             const float* figures, float* y, int64_t stride) {
  constexpr int kParts = ROWS <= 2 ? 2 : 1;
  for (int first = 0; first < kBlock; first += kParts * kLanes) {
    int8_part<ROWS, kParts>(weight, block, first, x, figures, y, stride);
  }
}

#include "w4_lanes.inc"
#undef TARGET

}  // namespace avx2
}  // namespace mindpress
