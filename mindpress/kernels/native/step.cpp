// All blocks of a decoder in one call: what would be a dozen calls a block from outside, each as
// long as a small product takes.

#include "step.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <new>

#include "attention.hpp"
#include "instructions.hpp"
#include "pool.hpp"

extern "C" {
int w4_matmul(const W4Weight*, const float*, int64_t, float*, int, int, int);
int write_pages(const CachePages*, const int64_t*, const float*, int64_t, int, int);
int attend_pages(const Attention*, const CachePages*, const CachePages*, int, int);
}

namespace mindpress {
namespace step {

struct Kernels {
  void (*norm)(const float*, const float*, int64_t, float, float*);
  void (*add)(const float*, int64_t, float*);
  void (*turn)(const float*, const float*, const float*, int64_t, int64_t, float*);
  void (*gate)(const float*, int64_t, int64_t, float*);
};

namespace portable {
#define TARGET
constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
#include "step_lanes.inc"
#undef TARGET
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
#define TARGET TARGET_AVX2
constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
#include "step_lanes.inc"
#undef TARGET
}  // namespace avx2

namespace avx512 {
#define TARGET TARGET_AVX512
constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
#include "step_lanes.inc"
#undef TARGET
}  // namespace avx512
#endif

namespace {

#if defined(__x86_64__)
constexpr Kernels kAvx2Kernels = avx2::kKernels, kAvx512Kernels = avx512::kKernels;
#else
constexpr Kernels kAvx2Kernels = portable::kKernels, kAvx512Kernels = portable::kKernels;
#endif

constexpr int64_t kNumbersPerItem = 1 << 14;  // fewer are not worth handing to another thread

struct How {
  int set, threads;
};

// Everything between the blocks' inputs and outputs, for all rows.
class Room {
 public:
  Room(const StepShape& shape, int64_t rows) {
    const int64_t queries = shape.heads * shape.channels, keys = shape.kv_heads * shape.channels;
    const int64_t fused = std::max(queries + 2 * keys, 2 * shape.inner);
    owned_.reset(new float[rows * (fused + queries + 2 * keys + queries + shape.inner +
                                   shape.hidden)]);
    wide = owned_.get();
    query = wide + rows * fused;
    this->keys = query + rows * queries;
    values = this->keys + rows * keys;
    mixed = values + rows * keys;
    inner = mixed + rows * queries;
    change = inner + rows * shape.inner;
  }

  float *wide, *query, *keys, *values, *mixed, *inner, *change;

 private:
  std::unique_ptr<float[]> owned_;
};

class Blocks {
 public:
  Blocks(const StepShape& shape, const StepRows& rows, const How& how, float* x, float* normed)
      : shape_(shape),
        rows_(rows),
        how_(how),
        kernels_(table_of(how.set, portable::kKernels, kAvx2Kernels, kAvx512Kernels)),
        room_(shape, rows.rows),
        x_(x),
        normed_(normed) {}

  int run(const StepLayer* layers, const float* final_norm) {
    norm_rows(x_, layers[0].attention_norm, normed_);
    for (int64_t i = 0; i < shape_.layers && status_ == kDone; ++i) {
      const StepLayer& layer = layers[i];
      attention(layer);
      advance(layer.attention_output_norm, layer.mlp_norm);
      multiply(layer.gate_up, normed_, room_.wide);
      gate_rows();
      multiply(layer.down, room_.inner, room_.change);
      const bool last = i + 1 == shape_.layers;
      advance(layer.mlp_output_norm, last ? final_norm : layers[i + 1].attention_norm);
    }
    return status_;
  }

 private:
  // One function after the other; the first that fails ends the step.
  void check(int status) {
    if (status_ == kDone) status_ = status;
  }

  void each_row(int64_t width, const std::function<void(int64_t)>& work) const {
    const int64_t per_item = std::max<int64_t>(1, kNumbersPerItem / width);
    const int64_t items = (rows_.rows + per_item - 1) / per_item;
    Pool::instance().run(how_.threads, items, [&](int64_t item, int) {
      const int64_t end = std::min(rows_.rows, (item + 1) * per_item);
      for (int64_t row = item * per_item; row < end; ++row) work(row);
    });
  }

  void norm_rows(const float* from, const float* weight, float* to) const {
    const int64_t width = shape_.hidden;
    each_row(width, [&](int64_t row) {
      kernels_.norm(from + row * width, weight, width, shape_.eps, to + row * width);
    });
  }

  void multiply(const StepLinear& linear, const float* from, float* to) {
    if (status_ != kDone) return;
    check(w4_matmul(&linear.weight, from, rows_.rows, to, static_cast<int>(linear.exact), how_.set,
                    how_.threads));
    if (linear.bias == nullptr) return;
    const int64_t width = linear.weight.outputs;
    each_row(width, [&](int64_t row) { kernels_.add(linear.bias, width, to + row * width); });
  }

  // The residual takes in what a half of a block computed, and is normed for the next one.
  void advance(const float* output_norm, const float* next_norm) const {
    const int64_t width = shape_.hidden;
    each_row(width, [&](int64_t row) {
      float *change = room_.change + row * width, *x = x_ + row * width;
      if (output_norm != nullptr) kernels_.norm(change, output_norm, width, shape_.eps, change);
      kernels_.add(change, width, x);
      kernels_.norm(x, next_norm, width, shape_.eps, normed_ + row * width);
    });
  }

  void gate_rows() const {
    const int64_t inner = shape_.inner;
    each_row(2 * inner, [&](int64_t row) {
      kernels_.gate(room_.wide + row * 2 * inner, inner, shape_.activation,
                    room_.inner + row * inner);
    });
  }

  void attention(const StepLayer& layer) {
    multiply(layer.query_key_value, normed_, room_.wide);
    if (status_ != kDone) return;
    split_heads(layer.head_norm);
    const auto write = [&](const CachePages& pages, const float* x) {
      check(write_pages(&pages, rows_.slots, x, rows_.rows, how_.set, how_.threads));
    };
    write(layer.keys, room_.keys);
    write(layer.values, room_.values);
    const Attention of = {room_.query, room_.mixed,    rows_.starts, rows_.lengths,
                          rows_.table, rows_.rows,     shape_.heads, rows_.sequences,
                          rows_.width, layer.window,   shape_.query_scale, shape_.cap};
    check(attend_pages(&of, &layer.keys, &layer.values, how_.set, how_.threads));
    multiply(layer.attention_output, room_.mixed, room_.change);
  }

  // Queries and keys normed and turned, values as they are, each into a room of their own.
  void split_heads(const float* head_norm) const {
    const int64_t channels = shape_.channels, turned = shape_.heads + shape_.kv_heads;
    const int64_t all = turned + shape_.kv_heads;
    each_row(all * channels, [&](int64_t row) {
      float* from = room_.wide + row * all * channels;
      const float* cosines = rows_.cosines + row * shape_.rotary;
      const float* sines = rows_.sines + row * shape_.rotary;
      for (int64_t head = 0; head < turned; ++head, from += channels) {
        if (head_norm != nullptr) {
          kernels_.norm(from, head_norm + head * channels, channels, shape_.eps, from);
        }
        const int64_t key = head - shape_.heads;
        float* to = key < 0 ? room_.query + (row * shape_.heads + head) * channels
                            : room_.keys + (row * shape_.kv_heads + key) * channels;
        kernels_.turn(from, cosines, sines, shape_.rotary, channels, to);
      }
      const int64_t values = shape_.kv_heads * channels;
      std::memcpy(room_.values + row * values, from, sizeof(float) * values);
    });
  }

  const StepShape& shape_;
  const StepRows& rows_;
  const How how_;
  const Kernels& kernels_;
  const Room room_;
  float *x_, *normed_;
  int status_ = kDone;
};

bool fits(const StepLinear& linear, int64_t inputs, int64_t outputs) {
  return linear.weight.inputs == inputs && linear.weight.outputs == outputs;
}

bool fits(const CachePages& pages, const StepShape& shape) {
  return pages.heads == shape.kv_heads && pages.channels == shape.channels;
}

bool well_formed(const StepShape& shape, const StepLayer& layer) {
  const int64_t queries = shape.heads * shape.channels, keys = shape.kv_heads * shape.channels;
  return fits(layer.query_key_value, shape.hidden, queries + 2 * keys) &&
         fits(layer.attention_output, queries, shape.hidden) &&
         fits(layer.gate_up, shape.hidden, 2 * shape.inner) &&
         fits(layer.down, shape.inner, shape.hidden) && fits(layer.keys, shape) &&
         fits(layer.values, shape) && layer.attention_norm != nullptr && layer.mlp_norm != nullptr;
}

}  // namespace
}  // namespace step
}  // namespace mindpress

extern "C" {

// normed [rows][hidden] = what the blocks make of x [rows][hidden], after the final norm; keys and
// values go to the layers' pages. x is overwritten. After an error both hold nothing of use.
EXPORT int decoder_step(const StepShape* shape, const StepLayer* layers, const float* final_norm,
                        const StepRows* rows, float* x, float* normed, int set, int threads) try {
  using namespace mindpress::step;
  const bool sized = shape->layers > 0 && rows->rows >= 0 && shape->rotary >= 0 &&
                     shape->rotary % 2 == 0 && shape->rotary <= shape->channels;
  if (!sized) return mindpress::kBadShape;
  for (int64_t i = 0; i < shape->layers; ++i) {
    if (!well_formed(*shape, layers[i])) return mindpress::kBadShape;
  }
  const int chosen = mindpress::resolve(set);
  if (chosen == mindpress::kBest) return mindpress::kNotSupported;
  return Blocks(*shape, *rows, {chosen, threads}, x, normed).run(layers, final_norm);
} catch (const std::bad_alloc&) {
  return mindpress::kNoMemory;
}

}  // extern "C"
