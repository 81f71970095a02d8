// For processors with AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include "instructions.hpp"
#include "w4_weight.hpp"

namespace mindpress {
namespace avx2 {

#define TARGET TARGET_AVX2
// Of functions that are given sums which have to stay in registers.
#define TARGET_INSIDE __attribute__((always_inline)) TARGET_AVX2
constexpr int kLanes = 8;
constexpr int kRows = 4;
constexpr int kTogether = 4;  // one thread reads four streams faster than one
constexpr int kParts = kBlock / kLanes;
constexpr int kAhead = 8 * kStep;  // bytes: those of the next group or so

typedef __m256i Sums[kParts];  // of the outputs of a block, for one row

TARGET inline __m256i four_codes(const int8_t* x) {
  int32_t codes;
  std::memcpy(&codes, x, sizeof codes);
  return _mm256_set1_epi32(codes);
}

// Adds the products of four inputs in pairs. A pair is at most 2 * 15 * 127 = 3810 (15 * 128 * 2
// with a code of -128), so eight of them fit a 16-bit sum.
template <int ROWS>
TARGET_INSIDE inline void add_pairs(const Sums& codes, const int8_t* x, Sums (&pairs)[ROWS]) {
#pragma GCC unroll 4
  for (int m = 0; m < ROWS; ++m) {
    const __m256i four = four_codes(x + 4 * m);
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      __m256i& sum = pairs[m][part];
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[part], four));
      asm("" : "+x"(sum));  // as a tree of additions the sums would not fit the 16 registers
    }
  }
}

// Adds the products of four steps: 16 inputs of each half of a group.
template <int ROWS>
TARGET_INSIDE inline void add_steps(const uint8_t* codes, const int8_t* low_x,
                                    const int8_t* high_x, Sums (&sums)[ROWS]) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  Sums pairs[ROWS];
#pragma GCC unroll 4
  for (int m = 0; m < ROWS; ++m) pairs[m][0] = pairs[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int step = 0; step < 4; ++step, codes += kStep) {
    __builtin_prefetch(codes + kAhead);
    const __m256i* packed = reinterpret_cast<const __m256i*>(codes);
    const __m256i a = _mm256_loadu_si256(packed), b = _mm256_loadu_si256(packed + 1);
    const Sums low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
    add_pairs<ROWS>(low, low_x + 4 * step * ROWS, pairs);
    const Sums high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask),
                       _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
    add_pairs<ROWS>(high, high_x + 4 * step * ROWS, pairs);
  }
#pragma GCC unroll 4
  for (int m = 0; m < ROWS; ++m) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      const __m256i wide = _mm256_madd_epi16(pairs[m][part], ones);
      sums[m][part] = _mm256_add_epi32(sums[m][part], wide);
    }
  }
}

// Adds what a group of inputs gives the outputs of one block.
template <int ROWS>
TARGET inline void add_group(const Group& group, int half, const int8_t* x, const float* figures,
                             __m256 (&total)[ROWS][kParts]) {
  Sums sums[ROWS];
#pragma GCC unroll 4
  for (int m = 0; m < ROWS; ++m) sums[m][0] = sums[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
  for (int k = 0; k < half; k += 16) {
    add_steps<ROWS>(group.codes + k * kBlock, x + k * ROWS, x + (half + k) * ROWS, sums);
  }
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    const int from = part * kLanes;
    const __m256 scale = _mm256_loadu_ps(group.scales + from);
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(group.zeros + from));
    const __m256 zero = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
#pragma GCC unroll 4
    for (int m = 0; m < ROWS; ++m) {
      const __m256 codes_sum = _mm256_set1_ps(figures[ROWS + m]);
      const __m256 value = _mm256_fnmadd_ps(zero, codes_sum, _mm256_cvtepi32_ps(sums[m][part]));
      const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(figures[m]));
      total[m][part] = _mm256_fmadd_ps(value, factor, total[m][part]);
    }
  }
}

template <int ROWS>
TARGET inline void store(const __m256 (&total)[ROWS][kParts], int columns, float* y,
                         int64_t stride) {
  for (int part = 0; part * kLanes < columns; ++part) {
    for (int m = 0; m < ROWS; ++m) _mm256_storeu_ps(y + m * stride + part * kLanes, total[m][part]);
  }
}

// The blocks group by group in turn: each is a stream from memory of its own.
template <int ROWS>
TARGET void int8_tile(const W4Weight& weight, int64_t first, int blocks, const int8_t* x,
                      const float* figures, float* y, int64_t stride) {
  const int half = static_cast<int>(weight.group) / 2;
  __m256 total[kTogether][ROWS][kParts];
  for (auto& block : total) {
    for (int m = 0; m < ROWS; ++m) block[m][0] = block[m][1] = _mm256_setzero_ps();
  }
  for (int64_t g = 0; g < weight.inputs / weight.group; ++g) {
    for (int i = 0; i < blocks; ++i) {
      add_group<ROWS>(Group(weight, first + i, g), half, x, figures, total[i]);
    }
    x += weight.group * ROWS;
    figures += 2 * ROWS;
  }
  for (int i = 0; i < blocks; ++i) {
    store<ROWS>(total[i], columns_of(weight, first + i), y + i * kBlock, stride);
  }
}

#include "w4_lanes.inc"
#undef TARGET_INSIDE
#undef TARGET

}  // namespace avx2
}  // namespace mindpress
