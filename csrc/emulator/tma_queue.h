// The tensor copies of one cluster that have not moved their data yet.
#pragma once

namespace rnc::emulator {

struct TmaQueue {
  void clear() {}
};

}  // namespace rnc::emulator
