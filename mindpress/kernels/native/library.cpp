// What the library says about itself. All exported functions are plain C: no Python and no torch in
// here, so that one library serves every version of both.

#include "instructions.hpp"

#ifndef MINDPRESS_SOURCES
#define MINDPRESS_SOURCES ""
#endif

extern "C" {

// Changes with every change of the functions and structures; library.py expects one value.
EXPORT int mindpress_abi() { return 2; }

// build.fingerprint() of what it was compiled from.
EXPORT const char* mindpress_sources() { return MINDPRESS_SOURCES; }

// The instruction set that `set` stands for on this processor (0: the best one), or -1.
EXPORT int mindpress_instruction_set(int set) {
  const int chosen = mindpress::resolve(set);
  return chosen == mindpress::kBest ? -1 : chosen;
}

}  // extern "C"
