// Products of float32 rows and weights of 16-bit floats, for so few rows that reading the weights
// is what takes the time.

#include <algorithm>
#include <cstring>

#include "halves.hpp"
#include "instructions.hpp"
#include "pool.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mindpress {
namespace w16 {

constexpr int64_t kNumbersPerItem = 1 << 17;  // fewer are not worth handing to another thread
constexpr int kOutputs = 4;                   // side by side, so that x is read less often

struct Problem {
  const uint16_t* weight;  // [outputs][inputs]
  bool bfloat;
  int64_t outputs, inputs, rows;
  const float* x;  // [rows][inputs]
  float* y;        // [rows][outputs]
};

namespace portable {
#define TARGET
constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
inline Floats float16_at(const uint16_t* from) {
  return Floats{from_float16(from[0]), from_float16(from[1]), from_float16(from[2]),
                from_float16(from[3])};
}
#include "w16_lanes.inc"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
TARGET inline Floats float16_at(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
#include "w16_lanes.inc"
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define TARGET TARGET_AVX512
constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
TARGET inline Floats float16_at(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
#include "w16_lanes.inc"
#undef TARGET
}  // namespace avx512
#endif

namespace {

using Multiply = void (*)(const Problem&, int64_t, int64_t);
constexpr Multiply kPortable = portable::multiply;
#if defined(__x86_64__)
constexpr Multiply kAvx2 = avx2::multiply, kAvx512 = avx512::multiply;
#else
constexpr Multiply kAvx2 = portable::multiply, kAvx512 = portable::multiply;
#endif

}  // namespace
}  // namespace w16
}  // namespace mindpress

extern "C" {

// y [rows][outputs] = x [rows][inputs] times weight [outputs][inputs], transposed.
EXPORT int w16_matmul(const uint16_t* weight, int bfloat, int64_t outputs, int64_t inputs,
                      const float* x, int64_t rows, float* y, int set, int threads) {
  namespace w16 = mindpress::w16;
  if (outputs < 1 || inputs < 1 || rows < 0) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  const auto multiply = mindpress::table_of(chosen, w16::kPortable, w16::kAvx2, w16::kAvx512);
  const w16::Problem problem = {weight, bfloat != 0, outputs, inputs, rows, x, y};
  const int64_t wanted = (w16::kNumbersPerItem + inputs - 1) / inputs;
  const int64_t per_item = (wanted + w16::kOutputs - 1) / w16::kOutputs * w16::kOutputs;
  mindpress::Pool::instance().run(
      threads, (outputs + per_item - 1) / per_item, [&](int64_t item, int) {
        multiply(problem, item * per_item, std::min(outputs, (item + 1) * per_item));
      });
  return mindpress::kDone;
}

}  // extern "C"
