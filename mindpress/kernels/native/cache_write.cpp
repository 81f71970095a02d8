// New keys or values are quantized and stored in pages.

#include <algorithm>
#include <cstring>

#include "cache_pages.hpp"
#include "halves.hpp"
#include "instructions.hpp"
#include "pool.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mindpress {
namespace cache_write {
namespace portable {

#define TARGET
constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
inline void float16_to(Floats x, uint8_t* to) {
  for (int i = 0; i < kLanes; ++i) {
    const uint16_t half = to_float16(x[i]);
    std::memcpy(to + 2 * i, &half, sizeof half);
  }
}
#include "cache_write_lanes.inc"
#undef TARGET

}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {

#define TARGET TARGET_AVX2
constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
TARGET inline void float16_to(Floats x, uint8_t* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
#include "cache_write_lanes.inc"
#undef TARGET

}  // namespace avx2

namespace avx512 {

#define TARGET TARGET_AVX512
constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
TARGET inline void float16_to(Floats x, uint8_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
#include "cache_write_lanes.inc"
#undef TARGET

}  // namespace avx512
#endif

namespace {

using Store = void (*)(const CachePages&, int64_t, int64_t, const float*);
constexpr Store kPortableStore = portable::store;
#if defined(__x86_64__)
constexpr Store kAvx2Store = avx2::store, kAvx512Store = avx512::store;
#else
constexpr Store kAvx2Store = portable::store, kAvx512Store = portable::store;
#endif

constexpr int64_t kNumbersPerItem = 1 << 14;  // fewer are not worth handing to another thread

void write(Store store, const CachePages& pages, const int64_t* slots, const float* x, int64_t rows,
           int threads) {
  const int64_t all = rows * pages.heads;
  const int64_t per_item = std::max<int64_t>(1, kNumbersPerItem / pages.channels);
  Pool::instance().run(threads, (all + per_item - 1) / per_item, [&](int64_t item, int) {
    const int64_t end = std::min(all, (item + 1) * per_item);
    for (int64_t i = item * per_item; i < end; ++i) {
      const int64_t slot = slots[i / pages.heads];
      if (slot >= 0) store(pages, slot, i % pages.heads, x + i * pages.channels);
    }
  });
}

}  // namespace
}  // namespace cache_write
}  // namespace mindpress

extern "C" {

// Row i of x [rows][heads][channels] goes to slot i; negative slots are padding.
EXPORT int write_pages(const CachePages* pages, const int64_t* slots, const float* x, int64_t rows,
                       int set, int threads) {
  namespace writing = mindpress::cache_write;
  if (!mindpress::well_formed(*pages) || rows < 0) return mindpress::kBadShape;
  const int64_t room = pages->pages * pages->tokens;
  const bool inside =
      std::all_of(slots, slots + rows, [room](int64_t slot) { return slot < room; });
  if (!inside) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  const auto store = mindpress::table_of(chosen, writing::kPortableStore, writing::kAvx2Store,
                                         writing::kAvx512Store);
  writing::write(store, *pages, slots, x, rows, threads);
  return mindpress::kDone;
}

}  // extern "C"
