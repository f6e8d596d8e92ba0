// What the two halves of the C API, memory_on_gpu.cpp and memory_on_host.cpp, do for the table of
// kernels.
#pragma once

namespace rnc {

// Returns when all launches are done; null or what went wrong in them.
const char* wait_for_device();

}  // namespace rnc
