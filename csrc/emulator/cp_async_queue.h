// The cp.async copies of one thread that have not moved their data yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rnc::emulator {

// One copy: `source_bytes` from the source, then zeros.
struct CpAsyncCopy {
  char* destination;
  const void* source;
  uint32_t group;  // number of its commit group
  uint8_t bytes;   // 0: moved already
  uint8_t source_bytes;
};

// In the order of issue, hence of groups. Keeps its memory, so that a copy allocates nothing.
struct CpAsyncQueue {
  std::vector<CpAsyncCopy> copies;
  size_t first = 0;  // those before it are complete

  void clear() {
    copies.clear();
    first = 0;
  }
};

}  // namespace rnc::emulator
