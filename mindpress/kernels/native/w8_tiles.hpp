// Sums of a block of outputs for some rows, for every instruction set: sums [ROWS][16]. Nothing
// saturates as long as no code is -128, and no sum of up to 2^17 inputs overflows.
#pragma once

#include "instructions.hpp"
#include "w8_weight.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mindpress {
namespace w8 {
namespace portable {

constexpr int kRows = 4;

template <int ROWS>
inline void tile(const W8Weight& weight, const int8_t* codes, const Rows& rows, int64_t row,
                 int32_t* sums) {
  int32_t sum[ROWS][kBlock] = {};
  const int8_t* x = rows.codes + row * rows.inputs;
  for (int64_t k = 0; k < weight.inputs; ++k) {
    const int8_t* next = codes + k / 4 * kStep + k % 4;
    for (int m = 0; m < ROWS; ++m) {
      for (int n = 0; n < kBlock; ++n) sum[m][n] += next[4 * n] * x[m * rows.inputs + k];
    }
  }
  std::memcpy(sums, sum, sizeof sum);
}

}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {

constexpr int kRows = 4;

// |w| times x with the sign of w: pairs are at most 2 * 127 * 127 = 32258, which 16 bits hold, but
// no sum of two such pairs: each is widened before it is added.
template <int ROWS>
TARGET_AVX2 inline void tile(const W8Weight& weight, const int8_t* codes, const Rows& rows,
                             int64_t row, int32_t* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t* x = rows.codes + row * rows.inputs;
  __m256i sum[ROWS][2];
  for (int m = 0; m < ROWS; ++m) sum[m][0] = sum[m][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < weight.inputs; k += 4, codes += kStep) {
    __builtin_prefetch(codes + kPrefetched);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32));
    const __m256i size_a = _mm256_abs_epi8(a), size_b = _mm256_abs_epi8(b);
#pragma GCC unroll 4
    for (int m = 0; m < ROWS; ++m) {
      const __m256i four = _mm256_set1_epi32(four_codes(x + m * rows.inputs + k));
      const __m256i pairs_a = _mm256_maddubs_epi16(size_a, _mm256_sign_epi8(four, a));
      const __m256i pairs_b = _mm256_maddubs_epi16(size_b, _mm256_sign_epi8(four, b));
      sum[m][0] = _mm256_add_epi32(sum[m][0], _mm256_madd_epi16(pairs_a, ones));
      sum[m][1] = _mm256_add_epi32(sum[m][1], _mm256_madd_epi16(pairs_b, ones));
    }
  }
  for (int m = 0; m < ROWS; ++m) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + m * kBlock), sum[m][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + m * kBlock + 8), sum[m][1]);
  }
}

}  // namespace avx2

namespace avx512 {

constexpr int kRows = 8;

// vpdpbusd wants one side without sign: w + 128, and 128 times the sum of x is taken off again.
// Sums may wrap on the way, the result does not.
template <int ROWS>
TARGET_AVX512 inline void tile(const W8Weight& weight, const int8_t* codes, const Rows& rows,
                               int64_t row, int32_t* sums) {
  constexpr int kChains = ROWS >= 4 ? 1 : 2;  // sums that do not wait for one another
  const __m512i offset = _mm512_set1_epi8(-128);
  const int8_t* x = rows.codes + row * rows.inputs;
  __m512i sum[kChains][ROWS];
  for (int m = 0; m < ROWS; ++m) {
    sum[0][m] = _mm512_set1_epi32(-rows.sums[row + m]);
    if constexpr (kChains == 2) sum[1][m] = _mm512_setzero_si512();
  }
  const int64_t even = weight.inputs / (4 * kChains) * (4 * kChains);
  for (int64_t k = 0; k < even; k += 4 * kChains) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain, codes += kStep) {
      __builtin_prefetch(codes + kPrefetched);
      const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(codes), offset);
#pragma GCC unroll 8
      for (int m = 0; m < ROWS; ++m) {
        const int32_t four = four_codes(x + m * rows.inputs + k + 4 * chain);
        sum[chain][m] = _mm512_dpbusd_epi32(sum[chain][m], bytes, _mm512_set1_epi32(four));
      }
    }
  }
  if (even < weight.inputs) {
    const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(codes), offset);
    for (int m = 0; m < ROWS; ++m) {
      const int32_t four = four_codes(x + m * rows.inputs + even);
      sum[0][m] = _mm512_dpbusd_epi32(sum[0][m], bytes, _mm512_set1_epi32(four));
    }
  }
  for (int m = 0; m < ROWS; ++m) {
    if constexpr (kChains == 2) sum[0][m] = _mm512_add_epi32(sum[0][m], sum[1][m]);
    _mm512_storeu_si512(sums + m * kBlock, sum[0][m]);
  }
}

}  // namespace avx512
#endif

}  // namespace w8
}  // namespace mindpress
