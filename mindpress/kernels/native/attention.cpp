// Attention of many sequences over keys and values in pages, cut into tiles for threads. How it is
// cut depends on the shapes alone, so that the number of threads changes no bit of the result.

#include "attention.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "attention_portable.hpp"
#include "instructions.hpp"
#include "pool.hpp"
#if defined(__x86_64__)
#include "attention_avx2.hpp"
#include "attention_avx512.hpp"
#endif

namespace mindpress {
namespace attention {
namespace {

constexpr int64_t kShortestPart = 1024;  // positions; joining parts is nothing beside that
constexpr int64_t kMostParts = 16;

#if defined(__x86_64__)
constexpr Kernels kAvx2Kernels = avx2::kKernels, kAvx512Kernels = avx512::kKernels;
#else
constexpr Kernels kAvx2Kernels = portable::kKernels, kAvx512Kernels = portable::kKernels;
#endif

// Floats that begin at a line of the cache.
class Floats {
 public:
  explicit Floats(int64_t count) : owned_(new float[count + 16]) {
    const auto address = reinterpret_cast<uintptr_t>(owned_.get());
    first_ = owned_.get() + (64 - address % 64) % 64 / sizeof(float);
  }

  float* at(int64_t index) const { return first_ + index; }

 private:
  std::unique_ptr<float[]> owned_;
  float* first_;
};

class Plan {
 public:
  Plan(const Problem& problem, const Kernels& kernels) : problem_(problem) {
    for (int64_t i = 0; i < problem.of.sequences; ++i) add_sequence(i);
    for (const Tile& tile : tiles_) {
      room_ = std::max(room_, kernels.room_floats(problem, vectors_of(tile)));
    }
    const int64_t stride = kernels.state_floats(problem);
    int64_t floats = 0;
    for (const Tile& tile : tiles_) floats += kept(tile) * stride;
    states_ = std::make_unique<Floats>(floats);
    for (Tile& tile : tiles_) {
      if (kept(tile) == 0) continue;
      floats -= kept(tile) * stride;
      tile.state = states_->at(floats);
      if (tile.part == 0) shared_.push_back(tile);
    }
  }

  void run(const Kernels& kernels, int threads) const {
    Pool& pool = Pool::instance();
    const int64_t count = static_cast<int64_t>(tiles_.size());
    const Floats rooms(Pool::workers(threads, count) * room_);
    pool.run(threads, count, [&](int64_t item, int worker) {
      kernels.attend(problem_, tiles_[item], rooms.at(worker * room_));
    });
    const int64_t joined = static_cast<int64_t>(shared_.size());
    pool.run(threads, joined, [&](int64_t item, int worker) {
      kernels.finish(problem_, shared_[item], rooms.at(worker * room_));
    });
  }

 private:
  int64_t vectors_of(const Tile& tile) const { return tile.rows * problem_.group(); }
  int64_t kept(const Tile& tile) const { return tile.parts > 1 ? vectors_of(tile) : 0; }

  void add_sequence(int64_t sequence) {
    const int64_t begin = problem_.of.starts[sequence], end = problem_.of.starts[sequence + 1];
    const int64_t most = std::max<int64_t>(1, kManyVectors / problem_.group());
    const int64_t past = problem_.of.lengths[sequence] - (end - begin);
    // The last rows have the most to do: they come first.
    for (int64_t last = end; last > begin; last -= most) {
      const int64_t row = std::max(begin, last - most);
      Tile tile = {sequence, 0, row, last - row, past + row - begin, 0, 0, 0, 1, nullptr};
      for (tile.head = 0; tile.head < problem_.keys.heads; ++tile.head) {
        add_parts(tile, end - begin <= most);
      }
    }
  }

  // The parts of a tile lie behind one another, the last one first: states are given from the end.
  void add_parts(Tile tile, bool alone) {
    const int64_t first = tile.first_seen(problem_.of, 0), last = tile.position + tile.rows;
    const int64_t count = last - first;
    int64_t length = std::max(kShortestPart, (count + kMostParts - 1) / kMostParts);
    length = (length + kSpan - 1) / kSpan * kSpan;
    tile.parts = alone ? (count + length - 1) / length : 1;
    for (tile.part = tile.parts - 1; tile.part >= 0; --tile.part) {
      tile.begin = first + tile.part * length;
      tile.end = tile.part == tile.parts - 1 ? last : tile.begin + length;
      tiles_.push_back(tile);
    }
  }

  const Problem& problem_;
  std::vector<Tile> tiles_, shared_;
  std::unique_ptr<Floats> states_;
  int64_t room_ = 0;
};

// Whether the pages of the positions that a sequence sees are there.
bool inside(const Problem& problem, int64_t sequence) {
  const Attention& of = problem.of;
  const int64_t begin = of.starts[sequence], end = of.starts[sequence + 1];
  const int64_t length = of.lengths[sequence], tokens = problem.keys.tokens;
  if (begin < 0 || end < begin || end > of.rows) return false;
  if (end == begin) return true;
  if (length < end - begin || (length + tokens - 1) / tokens > of.width) return false;
  const Tile whole = {sequence, 0, begin, end - begin, length - (end - begin), 0, 0, 0, 1, nullptr};
  const int64_t* table = of.table + sequence * of.width;
  const int64_t pages = std::min(problem.keys.pages, problem.values.pages);
  for (int64_t i = whole.first_seen(of, 0) / tokens; i * tokens < length; ++i) {
    if (table[i] < 0 || table[i] >= pages) return false;
  }
  return true;
}

bool well_formed(const Problem& problem) {
  const Attention& of = problem.of;
  const CachePages &keys = problem.keys, &values = problem.values;
  const bool fits = mindpress::well_formed(keys) && mindpress::well_formed(values) &&
                    keys.heads == values.heads && keys.tokens == values.tokens &&
                    keys.channels == values.channels && of.heads > 0 && of.heads % keys.heads == 0;
  if (!fits || of.rows < 0 || of.sequences < 0 || of.window < 0 || of.cap < 0) return false;
  for (int64_t i = 0; i < of.sequences; ++i) {
    if (!inside(problem, i)) return false;
  }
  return true;
}

// Rows of no sequence are padding.
void clear_padding(const Attention& of, int64_t row_floats) {
  const int64_t begin = of.sequences > 0 ? of.starts[0] : 0;
  const int64_t end = of.sequences > 0 ? of.starts[of.sequences] : 0;
  std::fill(of.mixed, of.mixed + begin * row_floats, 0.0f);
  std::fill(of.mixed + end * row_floats, of.mixed + of.rows * row_floats, 0.0f);
}

}  // namespace
}  // namespace attention
}  // namespace mindpress

extern "C" {

// mixed = softmax(scores) times values: attend_pages_reference of cache_attention/paged.py.
EXPORT int attend_pages(const Attention* of, const CachePages* keys, const CachePages* values,
                        int set, int threads) try {
  using namespace mindpress::attention;
  const Problem problem = {*of, *keys, *values};
  if (!well_formed(problem)) return mindpress::kBadShape;
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  const Kernels& kernels =
      mindpress::table_of(chosen, portable::kKernels, kAvx2Kernels, kAvx512Kernels);
  clear_padding(*of, of->heads * keys->channels);
  Plan(problem, kernels).run(kernels, threads);
  return mindpress::kDone;
} catch (const std::bad_alloc&) {
  return mindpress::kNoMemory;
}

}  // extern "C"
