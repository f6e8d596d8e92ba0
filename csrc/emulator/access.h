// Judges one memory access of a kernel, whatever it turns out to touch.
#pragma once

#include <cstddef>

#include "emulator/race_detector.h"

namespace rnc::emulator {

// Called for every access of instrumented kernels; does nothing outside kernels and in launches
// that neither check nor count.
void observe(const void* address, size_t bytes, Access kind, const void* pc);

}  // namespace rnc::emulator
