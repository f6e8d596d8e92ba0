// Judges one memory access of a kernel, whatever it turns out to touch.
#pragma once

#include <cstddef>

#include "emulator/race_detector.h"

namespace rnc::emulator {

// Called for every access of instrumented kernels; does nothing outside kernels and in launches
// that neither check nor count.
void observe(const void* address, size_t bytes, Access kind, const void* pc);

// The same for what an asynchronous operation does to the shared memory of `block`, in bounds:
// judged and counted when it is issued, complete at `completion`.
void observe_async(Fiber* issuer, Block& block, size_t offset, size_t bytes, Access kind,
                   Proxy proxy, Epoch completion, const void* pc);

}  // namespace rnc::emulator
