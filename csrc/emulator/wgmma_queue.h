// The wgmma operations of one warpgroup that have not been computed yet.
#pragma once

namespace rnc::emulator {

struct WgmmaQueue {
  void clear() {}
};

}  // namespace rnc::emulator
