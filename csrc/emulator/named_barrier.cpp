// __syncthreads: barrier 0, for all threads of the block that have not exited. Named barriers: any
// of the 16, for as many threads as the instruction says.
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

// wait_arguments: the barrier.
std::string describe_barrier(const Fiber& fiber) {
  const NamedBarrier& barrier = fiber.block->barriers.barriers[fiber.wait_arguments[0]];
  return format("at barrier %u, which %u of %u threads have reached",
                static_cast<uint32_t>(fiber.wait_arguments[0]), barrier.arrived, barrier.expected);
}
constexpr WaitReason kAtBarrier{describe_barrier};

void wake_lanes(Warp& warp, uint32_t lanes) {
  const Launch& launch = *warp.block->worker->launch;
  if (launch.options.count != 0) warp.accesses.flush_if_long(warp.block->worker->counters);
  if (launch.check_shared && lanes == warp.live) mark_converged(warp);
  make_ready(warp, lanes);
}

void release_all(Block& block) {
  block.at_barrier = 0;
  if (block.worker->launch->check_shared) join_block(block);
  for (uint32_t i = 0; i < block.warp_count; ++i) wake_lanes(block.warps[i], block.warps[i].live);
}

void check_operands(const Fiber& fiber, uint32_t index, uint32_t threads, const char* what) {
  if (index >= NamedBarriers::kCount) {
    fail(format("%s on barrier %u; a block has barriers 0 to %u", what, index,
                NamedBarriers::kCount - 1));
  }
  if (threads == 0 || threads % kWarpSize != 0) {
    fail(format("%s on barrier %u for %u threads; the number is a multiple of %u", what, index,
                threads, kWarpSize));
  }
  const uint32_t available = fiber.block->warp_count * kWarpSize;
  if (threads > available) {
    fail(format("%s on barrier %u for %u threads, in a block of %u", what, index, threads,
                available));
  }
  if (index == 0 && fiber.block->at_barrier != 0) {
    fail(
        format("%s on barrier 0 for %u threads, while %u threads are at __syncthreads, which is "
               "the same barrier for all threads",
               what, threads, fiber.block->at_barrier));
  }
}

// The current fiber is one more that has arrived.
NamedBarrier& arrive_at(Fiber& fiber, uint32_t index, uint32_t threads, const char* what) {
  check_operands(fiber, index, threads, what);
  NamedBarriers& all = fiber.block->barriers;
  NamedBarrier& barrier = all.barriers[index];
  if ((all.in_use >> index & 1) == 0) {
    all.in_use |= 1u << index;
    barrier.expected = threads;
  } else if (barrier.expected != threads) {
    fail(format("%s on barrier %u for %u threads, while %u threads have arrived there for %u", what,
                index, threads, barrier.arrived, barrier.expected));
  }
  uint32_t& lanes = barrier.arrived_lanes[fiber.warp->index];
  const uint32_t bit = 1u << fiber.lane;
  if ((lanes & bit) != 0) {
    fail(format("%s on barrier %u, where this thread has arrived already: %u of %u threads have",
                what, index, barrier.arrived, barrier.expected));
  }
  lanes |= bit;
  ++barrier.arrived;
  if (launch_of(&fiber).check_shared) {
    barrier.knowledge.add(fiber);
    ++fiber.clock.own;
  }
  return barrier;
}

void reset(NamedBarrier& barrier, uint32_t warps) {
  barrier.expected = barrier.arrived = 0;
  for (uint32_t i = 0; i < warps; ++i) barrier.arrived_lanes[i] = barrier.waiting_lanes[i] = 0;
}

void release(Block& block, uint32_t index) {
  NamedBarrier& barrier = block.barriers.barriers[index];
  const bool check = block.worker->launch->check_shared;
  const Knowledge knowledge = check ? barrier.knowledge.take() : Knowledge{};
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    Warp& warp = block.warps[i];
    const uint32_t lanes = barrier.waiting_lanes[i];
    if (check) for_each_lane(lanes, [&](uint32_t lane) { learn(warp.fibers[lane], knowledge); });
    if (lanes != 0) wake_lanes(warp, lanes);
  }
  reset(barrier, block.warp_count);
  block.barriers.in_use &= ~(1u << index);
}

}  // namespace

void NamedBarriers::clear() {
  for (; in_use != 0; in_use &= in_use - 1) {  // of a block that was abandoned
    NamedBarrier& barrier = barriers[__builtin_ctz(in_use)];
    reset(barrier, kMaxThreads / kWarpSize);
    barrier.knowledge = KnowledgeSum();
  }
}

void syncthreads() {
  Block& block = *self()->block;
  if ((block.barriers.in_use & 1) != 0) {
    fail(format("__syncthreads, which is barrier 0, while %u threads have arrived there for %u",
                block.barriers.barriers[0].arrived, block.barriers.barriers[0].expected));
  }
  if (++block.at_barrier == block.live) {
    release_all(block);
  } else {
    suspend(kAtSyncthreads);
  }
}

void barrier_sync(uint32_t index, uint32_t threads) {
  Fiber& fiber = *self();
  NamedBarrier& barrier = arrive_at(fiber, index, threads, "barrier_sync");
  barrier.waiting_lanes[fiber.warp->index] |= 1u << fiber.lane;
  if (barrier.arrived == barrier.expected) {
    release(*fiber.block, index);
  } else {
    fiber.wait_arguments[0] = index;
    suspend(kAtBarrier);
  }
}

void barrier_arrive(uint32_t index, uint32_t threads) {
  Fiber& fiber = *self();
  const NamedBarrier& barrier = arrive_at(fiber, index, threads, "barrier_arrive");
  if (barrier.arrived == barrier.expected) release(*fiber.block, index);
}

void barrier_thread_exited(Block& block) {
  if (block.at_barrier != 0 && block.at_barrier == block.live) release_all(block);
}

}  // namespace rnc::emulator
