// Decides which fiber of a block runs next.
#pragma once

#include <cstdint>

#include "emulator/fiber.h"

namespace rnc::emulator {

// Leaves the OS thread's stack for the block's first fiber; returns when the block is complete or
// abandoned.
void run_fibers(Block& block);

// Suspends the current fiber in `state` until somebody makes it ready.
void suspend(State state);

void make_ready(Block& block, Warp& warp, uint32_t lanes);

// What waits inside a block, told when a thread exits: the rest may be complete without it.
// barrier.cpp and warp.cpp.
void barrier_thread_exited(Block& block);
void collectives_lane_exited(Warp& warp);

}  // namespace rnc::emulator
