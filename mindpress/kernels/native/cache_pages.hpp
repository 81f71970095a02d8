// Keys or values of a layer in pages, those of a token side by side: formats/cache_pages.py.
#pragma once

#include <cstdint>

// A number is scale * code + low. Codes of 4 bits: byte i holds number i in its low half and number
// i + channels / 2 in the high one.
struct CachePages {
  void* data;              // [pages][heads][tokens][channels]
  void* scale;             // online: float16 [pages][heads][tokens]; fixed: float [heads][fixed]
  void* low;               // as scale, or null: -middle * scale
  int64_t pages, heads, tokens, channels;
  int64_t kind;            // CacheKind
  int64_t fixed;           // calibrated scales of a head: 1 or channels; 0: they are online
};

namespace mindpress {

enum CacheKind { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2, kInt8 = 3, kInt4 = 4 };

inline bool has_codes(const CachePages& pages) { return pages.kind >= kInt8; }
inline bool is_online(const CachePages& pages) { return has_codes(pages) && pages.fixed == 0; }
inline int middle_of(const CachePages& pages) { return pages.kind == kInt4 ? 8 : 128; }

inline int64_t bytes_of_token(const CachePages& pages) {
  if (pages.kind == kFloat32) return 4 * pages.channels;
  if (pages.kind == kInt8) return pages.channels;
  return pages.kind == kInt4 ? pages.channels / 2 : 2 * pages.channels;
}

// Place of a token in a page of a head, counted over all tokens of all heads and pages.
inline int64_t place_of(const CachePages& pages, int64_t page, int64_t head, int64_t token) {
  return (page * pages.heads + head) * pages.tokens + token;
}

inline bool well_formed(const CachePages& pages) {
  const bool scaled = !has_codes(pages) || pages.scale != nullptr;
  const bool fixed = pages.fixed == 0 || pages.fixed == 1 || pages.fixed == pages.channels;
  return pages.kind >= kFloat32 && pages.kind <= kInt4 && scaled && fixed && pages.pages >= 0 &&
         pages.heads > 0 && pages.tokens > 0 && pages.channels > 0 && pages.channels % 2 == 0;
}

}  // namespace mindpress
