// __syncthreads: barrier 0, for all threads of the block that have not exited. Named barriers:
// any of the 16, for as many threads as the instruction says.
#include "emulator/named_barrier.h"

#include <string>

#include "emulator/scheduler.h"
#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

std::string describe_syncthreads(const Fiber& fiber) {
  return format("at __syncthreads (barrier 0), which %u of %u live threads have reached",
                fiber.block->at_barrier, fiber.block->live);
}
constexpr WaitReason kAtSyncthreads{describe_syncthreads};

void release(Block& block) {
  Worker& worker = *block.worker;
  const Launch& launch = *worker.launch;
  block.at_barrier = 0;
  if (launch.check_shared) join_block(block);
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    Warp& warp = block.warps[i];
    if (launch.options.count != 0) warp.accesses.flush_if_long(worker.counters);
    if (launch.check_shared) mark_converged(warp);
    make_ready(warp, warp.live);
  }
}

}  // namespace

void NamedBarriers::clear() { in_use = 0; }

void syncthreads() {
  Block& block = *self()->block;
  if (++block.at_barrier == block.live) {
    release(block);
  } else {
    suspend(kAtSyncthreads);
  }
}

void barrier_thread_exited(Block& block) {
  if (block.at_barrier != 0 && block.at_barrier == block.live) release(block);
}

}  // namespace rnc::emulator
