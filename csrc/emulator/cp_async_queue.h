// The cp.async copies of one thread that have not moved their data yet.
#pragma once

namespace rnc::emulator {

struct CpAsyncQueue {
  void clear() {}
};

}  // namespace rnc::emulator
