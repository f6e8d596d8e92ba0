// The steps of a wgmma's life, from its issue by the threads of a warpgroup to the wait of its
// warps.
#pragma once

#include <cstdint>

#include "emulator/fiber.h"
#include "emulator/warp.h"

namespace rnc::emulator {

inline WgmmaQueue& queue_of(const Fiber& fiber) {
  return fiber.block->warpgroups[fiber.index / kWarpgroupThreads];
}
inline uint32_t thread_in_warpgroup(const Fiber& fiber) { return fiber.index % kWarpgroupThreads; }
// The first thread of a fiber's warpgroup.
inline Fiber* threads_of(const Fiber& fiber) {
  return fiber.block->fibers + fiber.index / kWarpgroupThreads * kWarpgroupThreads;
}

// A thread issues the operation that comes next for it (wgmma_issue.cpp).
void issue(Fiber& fiber, const Wgmma& wgmma, const void* pc);

// Whatever the warp may see of an operation's operands must be ordered before it, for every lane
// (wgmma_issue.cpp).
void check_operand_reads(Warp& warp, const WgmmaOperation& operation);

// Computes what all threads have issued, up to operation `end`, before any warp waits for it
// (wgmma.cpp).
void compute_early(Block& block, WgmmaQueue& queue, const Fiber* threads, uint64_t end);

// Lets warps go on whose operations all threads have issued by now (wgmma.cpp).
void release_waiting_warps(Block& block, WgmmaQueue& queue, Fiber* threads);

}  // namespace rnc::emulator
