// Which instructions kernels may use, and what the functions of the library return.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))

namespace mindpress {

enum Status { kDone = 0, kBadShape = 1, kNotSupported = 2, kNoMemory = 3 };  // Status of library.py
enum InstructionSet { kBest = 0, kPortable = 1, kAvx2 = 2, kAvx512 = 3 };

inline bool supported(int set) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned int a = 0, b = 0, c = 0, d = 0;
  const bool has_halves = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  const bool has_avx2 =
      has_halves && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == kAvx2) return has_avx2;
  if (set == kAvx512) {
    return has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
  }
#endif
  return set == kPortable;
}

// The set that `set` stands for, or kBest if this processor does not have it.
inline int resolve(int set) {
  if (set != kBest) return supported(set) ? set : static_cast<int>(kBest);
  if (supported(kAvx512)) return kAvx512;
  return supported(kAvx2) ? kAvx2 : kPortable;
}

// Of the same table of functions for every instruction set, that of `set`.
template <typename Table>
const Table& table_of([[maybe_unused]] int set, const Table& portable,
                      [[maybe_unused]] const Table& avx2, [[maybe_unused]] const Table& avx512) {
#if defined(__x86_64__)
  if (set == kAvx2) return avx2;
  if (set == kAvx512) return avx512;
#endif
  return portable;
}

}  // namespace mindpress
