// Products of rows and weights of int8 codes.

#include <algorithm>
#include <memory>
#include <new>

#include "halves.hpp"
#include "instructions.hpp"
#include "pool.hpp"
#include "w8_tiles.hpp"
#include "w8_weight.hpp"

namespace mindpress {
namespace w8 {
namespace portable {
#define TARGET
#include "w8_lanes.inc"
#undef TARGET
}  // namespace portable
#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
#include "w8_lanes.inc"
#undef TARGET
}  // namespace avx2
namespace avx512 {
#define TARGET TARGET_AVX512
#include "w8_lanes.inc"
#undef TARGET
}  // namespace avx512
#endif

namespace {

constexpr int64_t kBytesOfRows = 512 * 1024;   // of x at a time: stays in the second-level cache
constexpr int64_t kProductsPerItem = 1 << 18;  // fewer are not worth handing to another thread
constexpr int64_t kNumbersPerItem = 1 << 14;
constexpr int64_t kMostInputs = 1 << 17;       // 127 * 127 * 2^17 < 2^31

struct Kernels {
  void (*multiply)(const W8Weight&, int64_t, const Rows&, float*);
  void (*quantize)(const float*, int64_t, int8_t*, float*);
};

constexpr Kernels kPortableKernels = {portable::multiply, portable::quantize};
#if defined(__x86_64__)
constexpr Kernels kAvx2Kernels = {avx2::multiply, avx2::quantize};
constexpr Kernels kAvx512Kernels = {avx512::multiply, avx512::quantize};
#else
constexpr Kernels kAvx2Kernels = kPortableKernels, kAvx512Kernels = kPortableKernels;
#endif

const Kernels& kernels_of(int set) {
  return table_of(set, kPortableKernels, kAvx2Kernels, kAvx512Kernels);
}

void multiply_all(const Kernels& kernels, const W8Weight& weight, const Rows& rows, float* y,
                  int threads) {
  const int64_t blocks = (weight.outputs + kBlock - 1) / kBlock;
  const int64_t products = kBlock * weight.inputs * rows.count;
  const int64_t per_item = std::max<int64_t>(1, kProductsPerItem / products);
  Pool::instance().run(threads, (blocks + per_item - 1) / per_item, [&](int64_t item, int) {
    const int64_t end = std::min(blocks, (item + 1) * per_item);
    for (int64_t block = item * per_item; block < end; ++block) {
      kernels.multiply(weight, block, rows, y);
    }
  });
}

void matmul(const Kernels& kernels, const W8Weight& weight, const Rows& all, float* y,
            int threads) {
  const std::unique_ptr<int32_t[]> sums(new int32_t[all.count]);
  for (int64_t row = 0; row < all.count; ++row) {
    int32_t sum = 0;
    for (int64_t i = 0; i < all.inputs; ++i) sum += all.codes[row * all.inputs + i];
    sums[row] = 128 * sum;
  }
  const int64_t most = std::max<int64_t>(8, kBytesOfRows / all.inputs / 8 * 8);
  for (int64_t begin = 0; begin < all.count; begin += most) {
    const Rows rows = {std::min(most, all.count - begin), all.inputs,
                       all.codes + begin * all.inputs, all.scales + begin, sums.get() + begin};
    multiply_all(kernels, weight, rows, y + begin * weight.outputs, threads);
  }
}

}  // namespace
}  // namespace w8
}  // namespace mindpress

extern "C" {

// y [rows][outputs] = (codes [rows][inputs] times the weight's, transposed) * scales * weight's.
EXPORT int w8_matmul(const W8Weight* weight, const int8_t* codes, const float* scales, int64_t rows,
                     float* y, int set, int threads) try {
  namespace w8 = mindpress::w8;
  const bool fits = weight->outputs > 0 && weight->inputs > 0 && weight->inputs % 4 == 0 &&
                    weight->inputs <= w8::kMostInputs && rows >= 0;
  if (!fits) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  const w8::Rows all = {rows, weight->inputs, codes, scales, nullptr};
  w8::matmul(w8::kernels_of(chosen), *weight, all, y, threads);
  return mindpress::kDone;
} catch (const std::bad_alloc&) {
  return mindpress::kNoMemory;
}

// codes [rows][inputs] and scales [rows] of x.
EXPORT int quantize_rows(const float* x, int64_t rows, int64_t inputs, int8_t* codes, float* scales,
                         int set, int threads) {
  namespace w8 = mindpress::w8;
  if (rows < 0 || inputs < 1) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  const w8::Kernels& kernels = w8::kernels_of(chosen);
  const int64_t per_item = std::max<int64_t>(1, w8::kNumbersPerItem / inputs);
  mindpress::Pool::instance().run(
      threads, (rows + per_item - 1) / per_item, [&](int64_t item, int) {
        const int64_t end = std::min(rows, (item + 1) * per_item);
        for (int64_t row = item * per_item; row < end; ++row) {
          kernels.quantize(x + row * inputs, inputs, codes + row * inputs, scales + row);
        }
      });
  return mindpress::kDone;
}

}  // extern "C"
