#include "emulator/scheduler.h"

#include <cstdlib>
#include <numeric>
#include <string>

#include "emulator/agents.h"
#include "emulator/cluster_access.h"
#include "emulator/grid_dependency.h"

namespace rnc::emulator {

constinit thread_local ThreadView* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

uint32_t lowest_bit(uint32_t bits) { return static_cast<uint32_t>(__builtin_ctz(bits)); }
uint32_t highest_bit(uint32_t bits) { return 31u - static_cast<uint32_t>(__builtin_clz(bits)); }

uint32_t random_bit(Cluster& cluster, uint32_t bits) {
  uint32_t skip = cluster.random(static_cast<uint32_t>(__builtin_popcount(bits)));
  while (skip-- > 0) bits &= bits - 1;
  return lowest_bit(bits);
}

// One of the set bits. Round robin stays with the current one while it can, then takes the next.
uint32_t choose(Cluster& cluster, uint32_t bits, uint32_t current, int32_t schedule) {
  if (schedule == kRandom) return random_bit(cluster, bits);
  if (schedule == kReversed) return highest_bit(bits);
  const uint32_t from_current = bits & (~0u << current);
  return lowest_bit(from_current != 0 ? from_current : bits);
}

Fiber* next_ready(Block& block, int32_t schedule) {
  Cluster& cluster = *block.cluster;
  while (block.ready_warps != 0) {
    const uint32_t index = choose(cluster, block.ready_warps, block.current_warp, schedule);
    Warp& warp = block.warps[index];
    if (warp.ready == 0) {
      block.ready_warps &= ~(1u << index);
      continue;
    }
    block.current_warp = index;
    return warp.fibers + choose(cluster, warp.ready, 0, schedule);
  }
  return nullptr;
}

Fiber* next_ready(Cluster& cluster) {
  const int32_t schedule = cluster.worker->launch->options.schedule;
  while (cluster.ready_blocks != 0) {
    const uint32_t rank =
        cluster.size == 1 ? 0
                          : choose(cluster, cluster.ready_blocks, cluster.current_block, schedule);
    cluster.current_block = rank;
    if (Fiber* next = next_ready(cluster.blocks[rank], schedule)) return next;
    cluster.ready_blocks &= ~(1u << rank);
  }
  return nullptr;
}

std::string describe_state(const Fiber& fiber) {
  if (!is_live(fiber)) return "exited";
  return fiber.waiting_for != nullptr ? fiber.waiting_for->describe(fiber) : "ready";
}

// One line per run of threads in the same state.
std::string describe_threads(const Block& block) {
  const uint32_t threads = block.worker->launch->threads;
  const std::string prefix = block.cluster->size > 1
                                 ? "\n  block " + name_of(block.block_idx) + " thread "
                                 : "\n  thread ";
  std::string text;
  for (uint32_t begin = 0; begin < threads;) {
    const std::string state = describe_state(block.fibers[begin]);
    uint32_t end = begin + 1;
    while (end < threads && describe_state(block.fibers[end]) == state) ++end;
    text += prefix + name_of(block.fibers[begin].thread_idx);
    if (end - begin > 1) text += " to " + name_of(block.fibers[end - 1].thread_idx);
    text += ": " + state;
    begin = end;
  }
  return text;
}

[[noreturn]] void deadlock(const Cluster& cluster) {
  {
    Launch& launch = *cluster.worker->launch;
    std::string text =
        std::string(launch.request.name) + ": block " + name_of(cluster.blocks[0].block_idx);
    if (cluster.size > 1) {
      text += " to " + name_of(cluster.blocks[cluster.size - 1].block_idx) + " of a cluster";
    }
    text += ": deadlock, no thread can run:";
    for (uint32_t rank = 0; rank < cluster.size; ++rank) {
      text += describe_threads(cluster.blocks[rank]);
    }
    launch.errors.add(text);
  }
  abandon_block();
}

// Under random completion an operation may be complete at any moment.
void complete_at_random(Cluster& cluster) {
  constexpr uint32_t kOneIn = 8;
  if (cluster.random(kOneIn) != 0) return;
  const Options& options = cluster.worker->launch->options;
  switch (cluster.random(3)) {
    case 0:
      if (options.tma == kRandomCompletion) tma_complete_one(cluster, true);
      return;
    case 1:
      if (options.wgmma == kRandomCompletion) wgmma_complete_one(cluster);
      return;
    default:
      if (options.cp_async == kRandomCompletion) cp_async_complete_one(cluster);
      return;
  }
}

// The fiber of the cluster that runs next.
Fiber* next_fiber(Cluster& cluster) {
  const Launch& launch = *cluster.worker->launch;
  if (launch.random_completion && cluster.operations_in_flight != 0) complete_at_random(cluster);
  for (;;) {
    if (Fiber* next = next_ready(cluster)) return next;
    // A tensor copy completes at the latest when everybody waits; that may make fibers ready.
    if (tma_complete_one(cluster, launch.options.tma == kRandomCompletion)) continue;
    if (wake_pollers(cluster)) continue;
    deadlock(cluster);
  }
}

// The same when that fiber cannot go on, or has exited.
Fiber* next_after(const Fiber& fiber) {
  const Warp& warp = *fiber.warp;
  Cluster& cluster = *warp.block->cluster;
  if (warp.ready != 0 && cluster.stays_in_warp) return warp.fibers + lowest_bit(warp.ready);
  return next_fiber(cluster);
}

void run_threads();

void switch_to(Context& from, Fiber* to) {
  Worker& worker = worker_of(to);
  worker.counters.context_switches++;
  if (to->stack == nullptr) {
    const size_t index = worker.free_stacks.back();
    worker.free_stacks.pop_back();
    to->stack = worker.stacks + index * kStackBytes;
    // Stack tops are staggered: identical frames of all threads would compete for the same few sets
    // of the L1 cache.
    to->context.start(to->stack, kStackBytes - index * 1216 % 8192 / 64 * 64, run_threads);
  }
  current = to;
  Context::switch_to(from, to->context);
}

void check_groups_are_waited_for(Fiber& fiber) {
  static constexpr const char* kNames[kGroupKinds] = {"cp.async copies", "bulk stores",
                                                      "wgmma operations"};
  for (int kind = 0; kind < kGroupKinds; ++kind) {
    const CommitGroups& groups = fiber.groups[kind];
    if (!groups.outstanding()) continue;
    report(&fiber, format("exits with %s not waited for: %u of its %u commit groups are complete",
                          kNames[kind], groups.complete(), groups.used()));
  }
}

// Ends the current fiber. Returns if a thread that has not started yet continues on this stack:
// threads that never wait for each other all run on one, which stays in the cache.
void exit_fiber() {
  Fiber* fiber = self();
  Block& block = *fiber->block;
  Cluster& cluster = *block.cluster;
  if (fiber->uses_groups) check_groups_are_waited_for(*fiber);
  check_grid_dependency_at_exit(*fiber);
  cluster_thread_exits(*fiber);
  if (block.live == 1) check_warpgroups_agree(*fiber);
  fiber->warp->ready &= ~(1u << fiber->lane);
  fiber->warp->live &= ~(1u << fiber->lane);
  --block.live;
  if (--cluster.live == 0) {
    while (tma_complete_one(cluster, false)) {  // stores nobody waits for reach global memory
    }
    Context::switch_to(fiber->context, block.worker->main);
    std::abort();  // an exited fiber is never continued
  }
  collectives_lane_exited(*fiber->warp);
  barrier_thread_exited(block);
  cluster_thread_exited(*fiber);
  Fiber* next = next_after(*fiber);
  if (next->stack != nullptr) {
    Worker& worker = *block.worker;
    worker.free_stacks.push_back(
        static_cast<uint32_t>((fiber->stack - worker.stacks) / kStackBytes));
    switch_to(fiber->context, next);
    std::abort();  // an exited fiber is never continued
  }
  next->stack = fiber->stack;
  current = next;
}

// Where every stack begins.
void run_threads() {
  for (;;) {
    const LaunchRequest& request = launch_of(self()).request;
    request.call(request.kernel, request.params);
    exit_fiber();
  }
}

}  // namespace

uint32_t Cluster::random(uint32_t bound) {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<uint32_t>((random_state >> 32) % bound);
}

void suspend(const WaitReason& reason) {
  Fiber* fiber = self();
  fiber->waiting_for = &reason;
  fiber->warp->ready &= ~(1u << fiber->lane);
  Fiber* next = next_after(*fiber);
  if (next != fiber) switch_to(fiber->context, next);
  fiber->waiting_for = nullptr;
}

void yield() {
  Fiber* fiber = self();
  Fiber* next = next_after(*fiber);
  if (next != fiber) switch_to(fiber->context, next);
}

void run_fibers(Cluster& cluster) {
  Worker& worker = *cluster.worker;
  worker.free_stacks.resize(worker.stack_count);
  std::iota(worker.free_stacks.rbegin(), worker.free_stacks.rend(),
            0u);  // the first is at the back
  switch_to(worker.main, next_fiber(cluster));
  current = nullptr;
}

}  // namespace rnc::emulator
