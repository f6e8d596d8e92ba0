// Warp collectives: each lane leaves a pointer to its operands, the last one to arrive does the
// work for all.
#pragma once

#include <cstdint>

#include "emulator/fiber.h"

namespace rnc::emulator {

struct CollectiveKind {
  const char* name;
  // Called once, on the last lane's stack, when all have arrived; may be null.
  void (*execute)(Warp& warp, Rendezvous& meeting);
  // The instruction is `.aligned`: the warp must be converged. Nothing else is checked here, and
  // memory is ordered by no collective that does not do so itself.
  bool aligned = false;
};

inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// Waits for the other lanes of the mask. `arguments` is what meeting.arguments[lane] will be.
void meet(uint32_t mask, const CollectiveKind& kind, void* arguments);

template <class Visit>
void for_each_lane(uint32_t lanes, Visit&& visit) {
  for (; lanes != 0; lanes &= lanes - 1) visit(static_cast<uint32_t>(__builtin_ctz(lanes)));
}

// To be called by instructions that single lanes execute: until the warp meets again, an .aligned
// instruction in which lanes with different histories meet is reported. `pc` tells instructions
// apart.
inline void mark_alone(Fiber& fiber, const void* pc) {
  fiber.alone =
      (fiber.alone ^ static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pc))) * 0x01000193u + 1;
}

// All lanes of the warp that have not exited stand at the same point.
void mark_converged(Warp& warp);

}  // namespace rnc::emulator
