// Decides which fiber of a cluster runs next.
#pragma once

#include <cstdint>
#include <string>

#include "emulator/fiber.h"

namespace rnc::emulator {

// Leaves the OS thread's stack for the cluster's first fiber; returns when the cluster is complete
// or abandoned.
void run_fibers(Cluster& cluster);

// Why a fiber is suspended, for the deadlock report: "at __syncthreads ...".
struct WaitReason {
  std::string (*describe)(const Fiber& waiting);
};

// Suspends the current fiber until somebody makes it ready.
void suspend(const WaitReason& reason);

// Lets the others run first, without waiting for anything.
void yield();

inline void make_ready(Warp& warp, uint32_t lanes) {
  if (lanes == 0) return;
  warp.ready |= lanes;
  warp.block->ready_warps |= 1u << warp.index;
  warp.block->cluster->ready_blocks |= 1u << warp.block->rank;
}
inline void make_ready(Fiber& fiber) { make_ready(*fiber.warp, 1u << fiber.lane); }

// What waits inside a block, told when a thread has exited: the rest may be complete without it.
// named_barrier.cpp and warp.cpp.
void barrier_thread_exited(Block& block);
void collectives_lane_exited(Warp& warp);

// The last thread of a block exits: the warps of each warpgroup must have executed setmaxnreg
// alike. warpgroup.cpp.
void check_warpgroups_agree(const Fiber& last);

// Lets the threads that poll mbarriers try again; false when that has led nowhere too often.
// mbarrier.cpp.
bool wake_pollers(Cluster& cluster);

}  // namespace rnc::emulator
