// wgmma: the threads of a warpgroup issue the same operations one after the other; an operation
// that all of them have issued is computed as late, as early or as randomly as the launch asks for.
#include "emulator/wgmma.h"

#include <algorithm>
#include <cstring>

#include "emulator/agents.h"
#include "emulator/scheduler.h"
#include "emulator/wgmma_compute.h"
#include "emulator/wgmma_warpgroup.h"
#include "emulator/whole_warp.h"

namespace rnc::emulator {

namespace {

bool checks(const Fiber& fiber) { return launch_of(&fiber).options.check != 0; }

// In checked launches the lanes of a warp meet, so that one that has gone elsewhere is noticed.
struct Issue {
  const Wgmma& instruction;
  const void* pc;
};

void execute_issue(Warp& warp, Rendezvous& meeting) {
  check_whole_warp(warp, meeting);
  WgmmaQueue& queue = queue_of(*warp.fibers);
  const uint64_t index = queue.issued[thread_in_warpgroup(*warp.fibers)];
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const auto& own = *static_cast<const Issue*>(meeting.arguments[lane]);
    issue(warp.fibers[lane], own.instruction, own.pc);
  }
  if (warp.block->worker->launch->check_shared) check_operand_reads(warp, queue.at(index));
}
void execute_nothing(Warp& warp, Rendezvous& meeting) { check_whole_warp(warp, meeting); }

constexpr CollectiveKind kFence{"wgmma.fence", execute_nothing, true};
constexpr CollectiveKind kIssue{"wgmma.mma_async", execute_issue, true};
constexpr CollectiveKind kCommit{"wgmma.commit_group", execute_nothing, true};

// Computes what all threads have issued, up to operation `end`.
void compute_until(Block& block, WgmmaQueue& queue, uint64_t end) {
  if (end <= queue.computed) return;
  if (block.worker->launch->options.wgmma == kRandomCompletion) {
    block.cluster->operations_in_flight -= static_cast<uint32_t>(end - queue.computed);
  }
  compute(block, queue, end);
}

// Whether all operations of the groups before `groups` were issued by the whole warpgroup.
bool is_issued(const WgmmaQueue& queue, uint32_t groups) {
  for (uint64_t index = queue.begin; index < queue.end; ++index) {
    if (queue.at(index).group >= groups) break;
    if (!queue.at(index).is_issued()) return false;
  }
  return true;
}

std::string describe_wait(const Fiber& fiber) {
  const WgmmaQueue& queue = queue_of(fiber);
  for (uint64_t index = queue.begin; index < queue.end; ++index) {
    const WgmmaOperation& operation = queue.at(index);
    if (operation.is_issued()) continue;
    return format(
        "in wgmma.wait_group for a wgmma of commit group %u, which %u of the 128 threads "
        "of the warpgroup have issued",
        operation.group, operation.issued);
  }
  return "in wgmma.wait_group";
}
constexpr WaitReason kWaiting{describe_wait};

// A fragment must keep its values until the wait: the hardware may read it at any time.
void check_fragments(const WgmmaOperation& operation, const Fiber* threads, uint32_t warp) {
  if (operation.instruction.a_registers == nullptr) return;
  for (uint32_t thread = warp * kWarpSize; thread < (warp + 1) * kWarpSize; ++thread) {
    if (std::memcmp(operation.a_registers[thread], operation.a_values[thread],
                    sizeof operation.a_values[thread]) == 0) {
      continue;
    }
    report(threads + thread,
           "A registers of a wgmma in flight were modified before wgmma.wait_group" +
               location(operation.pc));
    return;
  }
}

// A warp has waited for the groups before `groups`, which the whole warpgroup has issued.
void finish_wait(Block& block, WgmmaQueue& queue, Fiber* threads, uint32_t warp, uint32_t groups) {
  uint64_t end = queue.begin;
  while (end < queue.end && queue.at(end).group < groups) {
    if (queue.at(end).group >= queue.waited[warp]) check_fragments(queue.at(end), threads, warp);
    ++end;
  }
  compute_until(block, queue, end);
  if (queue.checks != nullptr) queue.checks->waited(threads, warp, groups);
  queue.waited[warp] = std::max(queue.waited[warp], groups);
  // Nobody asks for what all warps have waited for.
  const uint32_t everybody = *std::min_element(queue.waited, queue.waited + kWarpgroupWarps);
  while (queue.begin < queue.computed && queue.at(queue.begin).group < everybody) ++queue.begin;
}

void execute_wait(Warp& warp, Rendezvous& meeting) {
  check_whole_warp(warp, meeting);
  const uint32_t newest_left = *static_cast<const uint32_t*>(meeting.arguments[self()->lane]);
  uint32_t groups = 0;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const uint32_t other = *static_cast<const uint32_t*>(meeting.arguments[lane]);
    if (other != newest_left) {
      fail(
          format("divergent collectives: lane %u of warp %u calls wgmma.wait_group %u, lane %u "
                 "wgmma.wait_group %u",
                 self()->lane, warp.index, newest_left, lane, other));
    }
    CommitGroups& own = warp.fibers[lane].group(GroupKind::kWgmma);
    if (own.used() > own.open()) {
      fail(
          format("wgmma.wait_group %u while wgmma operations are not committed: it does not wait "
                 "for them; wgmma.commit_group first",
                 newest_left));
    }
    groups = own.wait(newest_left, warp.fibers[lane].clock.own);
  }
  Block& block = *warp.block;
  if (block.worker->launch->check_shared) join_lanes(warp, meeting.arrived);
  WgmmaQueue& queue = queue_of(*warp.fibers);
  const uint32_t index = warp.index % kWarpgroupWarps;
  if (is_issued(queue, groups)) {
    finish_wait(block, queue, threads_of(*warp.fibers), index, groups);
  } else {
    queue.wanted[index] = groups;
    queue.waiting |= 1u << index;
  }
}

constexpr CollectiveKind kWait{"wgmma.wait_group", execute_wait, true};

}  // namespace

void compute_early(Block& block, WgmmaQueue& queue, const Fiber* threads, uint64_t end) {
  compute_until(block, queue, end);
  if (queue.checks != nullptr) queue.checks->show_computed(threads, queue.computed);
}

void release_waiting_warps(Block& block, WgmmaQueue& queue, Fiber* threads) {
  for (uint32_t warp = 0; warp < kWarpgroupWarps; ++warp) {
    if ((queue.waiting >> warp & 1) == 0 || !is_issued(queue, queue.wanted[warp])) continue;
    queue.waiting &= ~(1u << warp);
    finish_wait(block, queue, threads, warp, queue.wanted[warp]);
    Warp& released = *threads[warp * kWarpSize].warp;
    make_ready(released, released.live);
  }
}

WgmmaOperation& WgmmaQueue::push() {
  if (end - begin == ring.size()) {
    std::vector<WgmmaOperation> larger(std::max<size_t>(16, 2 * ring.size()));
    for (uint64_t i = begin; i < end; ++i) larger[i & (larger.size() - 1)] = at(i);
    ring.swap(larger);
  }
  return at(end++);
}

void WgmmaQueue::clear() {
  if (!used) return;
  used = false;
  begin = computed = end = 0;
  std::fill_n(issued, kWarpgroupThreads, uint64_t{0});
  std::fill_n(fenced, kWarpgroupThreads, false);
  std::fill_n(waited, kWarpgroupWarps, 0u);
  waiting = 0;
  checks.reset();
}

void wgmma_fence() {
  Fiber& fiber = *self();
  WgmmaQueue& queue = queue_of(fiber);
  queue.fenced[thread_in_warpgroup(fiber)] = true;
  queue.used = true;
  if (!checks(fiber)) return;
  meet(kAllLanes, kFence, nullptr);
  if (queue.checks == nullptr) queue.checks = std::make_unique<WgmmaRegisterChecks>();
  queue.checks->fence(fiber, static_cast<const char*>(__builtin_frame_address(0)));
}

void wgmma(const Wgmma& instruction) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  if (checks(fiber)) {
    Issue own{instruction, pc};
    meet(kAllLanes, kIssue, &own);
  } else {
    issue(fiber, instruction, pc);
  }
}

void wgmma_commit() {
  Fiber& fiber = *self();
  if (checks(fiber)) meet(kAllLanes, kCommit, nullptr);
  fiber.group(GroupKind::kWgmma).commit();
}

void wgmma_wait(uint32_t newest_groups_left) {
  meet(kAllLanes, kWait, &newest_groups_left);
  // Another warp may be late to issue what this one waits for.
  const Fiber& fiber = *self();
  const WgmmaQueue& queue = queue_of(fiber);
  while ((queue.waiting >> fiber.warp->index % kWarpgroupWarps & 1) != 0) suspend(kWaiting);
}

bool wgmma_complete_one(Cluster& cluster) {
  const uint32_t queues = cluster.size * kMaxWarpgroups;
  const uint32_t start = cluster.random(queues);
  for (uint32_t i = 0; i < queues; ++i) {
    const uint32_t chosen = (start + i) % queues;
    Block& block = cluster.blocks[chosen / kMaxWarpgroups];
    const uint32_t warpgroup = chosen % kMaxWarpgroups;
    WgmmaQueue& queue = block.warpgroups[warpgroup];
    if (queue.computed == queue.end || !queue.at(queue.computed).is_issued()) continue;
    compute_early(block, queue, block.fibers + warpgroup * kWarpgroupThreads, queue.computed + 1);
    return true;
  }
  return false;
}

}  // namespace rnc::emulator
