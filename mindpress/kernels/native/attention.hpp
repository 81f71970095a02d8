// What the attention kernels are given, and how it is cut into pieces.
#pragma once

#include <cstdint>

#include "cache_pages.hpp"

// Queries of many sequences: PagedBatch and Scoring of kernels/cache_attention/paged.py.
struct Attention {
  const float* query;      // [rows][heads][channels]
  float* mixed;            // as query
  const int64_t* starts;   // [sequences + 1]
  const int64_t* lengths;  // [sequences]
  const int64_t* table;    // [sequences][width]
  int64_t rows, heads, sequences, width;
  int64_t window;          // 0: all of the past
  float scale, cap;        // cap 0: none
};

namespace mindpress {
namespace attention {

// A vector is the query of a row and head. Up to kFewVectors of them read keys and values where
// they lie; more are worth expanding them to panels of floats.
constexpr int kFewVectors = 8;
constexpr int kManyVectors = 96;   // of a tile: with its panels they stay in the second-level cache
constexpr int64_t kSpan = 256;     // positions whose scores are kept at a time, of few vectors
constexpr int64_t kPanel = 64;     // of many
constexpr int kStateTail = 16;     // floats after the sums of a vector: maximum, sum, low

struct Problem {
  const Attention& of;
  const CachePages& keys;
  const CachePages& values;

  int64_t group() const { return of.heads / keys.heads; }
};

// Some rows of a sequence, for one kv head, and the positions `begin` to `end` of its context.
struct Tile {
  int64_t sequence, head, row, rows;
  int64_t position;  // of the first row in its sequence
  int64_t begin, end;
  int64_t part, parts;    // of a context that several tiles share
  float* state;           // kept until all parts are done; null: in the room of the worker

  int64_t first_seen(const Attention& of, int64_t row_of_tile) const {
    const int64_t last = position + row_of_tile + 1;
    return of.window > 0 && last > of.window ? last - of.window : 0;
  }
};

struct Kernels {
  int64_t (*state_floats)(const Problem&);               // of one vector
  int64_t (*room_floats)(const Problem&, int64_t most);  // of a worker, for tiles of `most` vectors
  void (*attend)(const Problem&, const Tile&, float* room);
  // The first of several parts: joins the others to it.
  void (*finish)(const Problem&, const Tile&, float* room);
};

}  // namespace attention
}  // namespace mindpress
