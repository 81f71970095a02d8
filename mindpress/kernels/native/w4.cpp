// Products with weights of 4-bit codes.

#include <algorithm>
#include <memory>
#include <new>

#include "instructions.hpp"
#include "pool.hpp"
#include "w4_portable.hpp"
#include "w4_weight.hpp"
#if defined(__x86_64__)
#include "w4_avx2.hpp"
#include "w4_avx512.hpp"
#endif

namespace mindpress {
namespace {

constexpr int64_t kBytesOfRows = 512 * 1024;   // of x at a time: stays in the second-level cache
constexpr int64_t kProductsPerItem = 1 << 18;  // less is not worth handing to another thread

struct Kernels {
  int rows;      // of the widest tile
  int together;  // blocks that are multiplied at a time
  void (*prepare)(const W4Weight&, const float*, int64_t, const Rows&);
  void (*multiply)(const W4Weight&, int64_t, int64_t, const Rows&, float*);
  void (*dequantize)(const W4Weight&, int64_t, float*, int64_t);
};

constexpr Kernels kPortableKernels = {portable::kRows, portable::kTogether, portable::prepare,
                                      portable::multiply, portable::dequantize};
#if defined(__x86_64__)
constexpr Kernels kAvx2Kernels = {avx2::kRows, avx2::kTogether, avx2::prepare, avx2::multiply,
                                  avx2::dequantize};
constexpr Kernels kAvx512Kernels = {avx512::kRows, avx512::kTogether, avx512::prepare,
                                    avx512::multiply, avx512::dequantize};
#else
constexpr Kernels kAvx2Kernels = kPortableKernels, kAvx512Kernels = kPortableKernels;
#endif

const Kernels& kernels_of(int set) {
  return table_of(set, kPortableKernels, kAvx2Kernels, kAvx512Kernels);
}

bool well_formed(const W4Weight& weight) {
  const bool known = weight.group == 32 || weight.group == 64 || weight.group == 128;
  return known && weight.outputs > 0 && weight.outputs % 8 == 0 && weight.inputs > 0 &&
         weight.inputs % weight.group == 0;
}

// Room for prepared rows of x.
class Scratch {
 public:
  Scratch(const W4Weight& weight, int64_t rows, bool exact) {
    if (exact) {
      values_.reset(new float[rows * weight.inputs]);
    } else {
      codes_.reset(new int8_t[rows * weight.inputs]);
      figures_.reset(new float[2 * rows * (weight.inputs / weight.group)]);
    }
  }

  Rows rows(int64_t count) const { return {count, codes_.get(), figures_.get(), values_.get()}; }

 private:
  std::unique_ptr<int8_t[]> codes_;
  std::unique_ptr<float[]> figures_, values_;
};

// Rows of x that are prepared at a time: whole tiles.
int64_t rows_at_once(const W4Weight& weight, int64_t rows, bool exact, int widest) {
  const int64_t bytes = weight.inputs * (exact ? sizeof(float) : 1);
  const int64_t tiles = std::max<int64_t>(1, kBytesOfRows / bytes / widest);
  return std::min(rows, tiles * widest);
}

void prepare_all(const Kernels& kernels, const W4Weight& weight, const float* x, const Rows& rows,
                 int threads) {
  // Remaining narrower tiles begin where no multiple of the widest one does: one item takes them.
  const int64_t items = (rows.count + kernels.rows - 1) / kernels.rows;
  Pool::instance().run(items > 4 ? threads : 1, items, [&](int64_t item, int) {
    int64_t m = item * kernels.rows;
    const int64_t end = std::min(rows.count, m + kernels.rows);
    while (m < end) {
      kernels.prepare(weight, x, m, rows);
      m += tile_rows(end - m, kernels.rows);
    }
  });
}

// Blocks a thread takes at a time: as many as are multiplied together, if every thread gets some.
int64_t blocks_per_item(const Kernels& kernels, const W4Weight& weight, int64_t rows, int threads) {
  const int64_t products = kBlock * weight.inputs * rows;
  const int64_t enough = std::max<int64_t>(1, kProductsPerItem / products);
  const int64_t whole = (enough + kernels.together - 1) / kernels.together * kernels.together;
  return whole * threads <= blocks_of(weight) ? whole : enough;
}

void multiply_all(const Kernels& kernels, const W4Weight& weight, const Rows& rows, float* y,
                  int threads) {
  const int64_t blocks = blocks_of(weight);
  const int64_t per_item = blocks_per_item(kernels, weight, rows.count, threads);
  Pool::instance().run(threads, (blocks + per_item - 1) / per_item, [&](int64_t item, int) {
    const int64_t end = std::min(blocks, (item + 1) * per_item);
    kernels.multiply(weight, item * per_item, end, rows, y);
  });
}

void matmul(const Kernels& kernels, const W4Weight& weight, const float* x, int64_t rows, float* y,
            bool exact, int threads) {
  const int64_t most = rows_at_once(weight, rows, exact, kernels.rows);
  const Scratch scratch(weight, most, exact);
  for (int64_t begin = 0; begin < rows; begin += most) {
    const Rows prepared = scratch.rows(std::min(most, rows - begin));
    prepare_all(kernels, weight, x + begin * weight.inputs, prepared, threads);
    multiply_all(kernels, weight, prepared, y + begin * weight.outputs, threads);
  }
}

}  // namespace
}  // namespace mindpress

extern "C" {

// y [rows][outputs] = x [rows][inputs] times the weight, transposed. exact: x stays float32; else
// it becomes int8 codes with one scale per row and group. 0, or why it was not done.
EXPORT int w4_matmul(const W4Weight* weight, const float* x, int64_t rows, float* y, int exact,
                     int set, int threads) try {
  if (!mindpress::well_formed(*weight) || rows < 0) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  if (rows > 0) {
    mindpress::matmul(mindpress::kernels_of(chosen), *weight, x, rows, y, exact != 0, threads);
  }
  return mindpress::kDone;
} catch (const std::bad_alloc&) {
  return mindpress::kNoMemory;
}

// panel [inputs][16 blocks] = the float32 weights of the outputs of `blocks` blocks from `first`.
EXPORT int w4_dequantize(const W4Weight* weight, int64_t first, int64_t blocks, float* panel,
                         int set, int threads) try {
  const bool inside = first >= 0 && blocks >= 0 && first + blocks <= mindpress::blocks_of(*weight);
  if (!mindpress::well_formed(*weight) || !inside) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  const mindpress::Kernels& kernels = mindpress::kernels_of(chosen);
  const int64_t stride = blocks * mindpress::kBlock;
  mindpress::Pool::instance().run(threads, blocks, [&](int64_t block, int) {
    kernels.dequantize(*weight, first + block, panel + block * mindpress::kBlock, stride);
  });
  return mindpress::kDone;
} catch (const std::bad_alloc&) {
  return mindpress::kNoMemory;
}

}  // extern "C"
