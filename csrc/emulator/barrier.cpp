// __syncthreads: barrier 0, for all threads of the block that have not exited.
#include "emulator/scheduler.h"

namespace rnc::emulator {

namespace {

void release(Block& block) {
  Worker& worker = *block.worker;
  const Launch& launch = *worker.launch;
  block.at_barrier = 0;
  if (launch.check_shared) block.shadow.join_live(worker.fibers.data(), launch.threads);
  for (Warp& warp : worker.warps) {
    if (launch.options.count != 0) warp.accesses.flush_if_long(worker.counters);
    make_ready(block, warp, warp.live);
  }
}

}  // namespace

void syncthreads() {
  Block& block = *self()->block;
  if (++block.at_barrier == block.live) {
    release(block);
  } else {
    suspend(State::kAtBarrier);
  }
}

void barrier_thread_exited(Block& block) {
  if (block.at_barrier != 0 && block.at_barrier == block.live) release(block);
}

}  // namespace rnc::emulator
