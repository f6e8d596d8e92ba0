// Matrix instructions need all 32 lanes of a warp.
#pragma once

#include "emulator/warp.h"

namespace rnc::emulator {

inline void check_whole_warp(const Warp& warp, const Rendezvous& meeting) {
  if (meeting.arrived == kAllLanes) return;
  fail(format("%s needs all 32 lanes of a warp, but only lanes %08x of warp %u are there",
              meeting.kind->name, meeting.arrived, warp.index));
}

}  // namespace rnc::emulator
