// wgmma: the threads of a warpgroup issue the same operations one after the other; an operation
// that all of them have issued is computed as late, as early or as randomly as the launch asks for.
#include "emulator/wgmma.h"

#include <algorithm>
#include <cstring>

#include "emulator/access.h"
#include "emulator/agents.h"
#include "emulator/scheduler.h"
#include "emulator/shared_pointer.h"
#include "emulator/warp.h"
#include "emulator/wgmma_compute.h"
#include "emulator/whole_warp.h"

namespace rnc::emulator {

namespace {

WgmmaQueue& queue_of(const Fiber& fiber) {
  return fiber.block->warpgroups[fiber.index / kWarpgroupThreads];
}
uint32_t thread_of(const Fiber& fiber) { return fiber.index % kWarpgroupThreads; }
// The first thread of a fiber's warpgroup.
Fiber* threads_of(const Fiber& fiber) {
  return fiber.block->fibers + fiber.index / kWarpgroupThreads * kWarpgroupThreads;
}
bool checks(const Fiber& fiber) { return launch_of(&fiber).options.check != 0; }

ElementType element_of(WgmmaType type) {
  switch (type) {
    case WgmmaType::kBfloat16:
      return ElementType::kBfloat16;
    case WgmmaType::kFloat16:
      return ElementType::kFloat16;
    case WgmmaType::kTensorFloat32:
      return ElementType::kTensorFloat32;
  }
  return ElementType::kBfloat16;
}

const char* name_of(WgmmaType type) {
  switch (type) {
    case WgmmaType::kBfloat16:
      return "bf16";
    case WgmmaType::kFloat16:
      return "f16";
    case WgmmaType::kTensorFloat32:
      return "tf32";
  }
  return "unknown";
}

// Like fail(), about a thread of the same warp.
[[noreturn, gnu::cold, gnu::noinline]] void fail_in(const Fiber& fiber,
                                                    const std::string& message) {
  report(&fiber, message);
  abandon_block();
}

// ------------------------------------------------------------------ issue

[[noreturn, gnu::cold, gnu::noinline]] void fail_operands_differ(const Fiber& fiber,
                                                                 const WgmmaOperation& operation,
                                                                 const Wgmma& own, uint32_t group) {
  const Wgmma& first = operation.instruction;
  std::string differences;
  const auto compare = [&](const char* what, const std::string& mine, const std::string& theirs) {
    if (mine == theirs) return;
    if (!differences.empty()) differences += ", ";
    differences += what;
    differences += " " + mine + " against " + theirs;
  };
  const auto bits = [](uint64_t descriptor) {
    return format("%016llx", static_cast<unsigned long long>(descriptor));
  };
  const auto source = [](const Wgmma& wgmma) {
    return wgmma.a_registers != nullptr ? "registers" : "shared memory";
  };
  compare("type", name_of(own.type), name_of(first.type));
  compare("N", std::to_string(own.n), std::to_string(first.n));
  compare("A in", source(own), source(first));
  compare("descriptor of A", bits(own.descriptor_a), bits(first.descriptor_a));
  compare("descriptor of B", bits(own.descriptor_b), bits(first.descriptor_b));
  compare("scale-d", std::to_string(own.accumulate), std::to_string(first.accumulate));
  compare("trans-a", std::to_string(own.transpose_a), std::to_string(first.transpose_a));
  compare("trans-b", std::to_string(own.transpose_b), std::to_string(first.transpose_b));
  compare("commit group", std::to_string(group), std::to_string(operation.group));
  fail_in(fiber, "wgmma: operands differ between the threads of a warpgroup: " + differences +
                     location(operation.pc));
}

bool same_operands(const Wgmma& a, const Wgmma& b) {
  return a.type == b.type && a.n == b.n && a.descriptor_a == b.descriptor_a &&
         a.descriptor_b == b.descriptor_b && a.accumulate == b.accumulate &&
         a.transpose_a == b.transpose_a && a.transpose_b == b.transpose_b &&
         (a.a_registers == nullptr) == (b.a_registers == nullptr);
}

void check_warpgroup(const Fiber& fiber) {
  const uint32_t threads = launch_of(&fiber).threads;
  const uint32_t first = fiber.index / kWarpgroupThreads * kWarpgroupThreads;
  if (first + kWarpgroupThreads <= threads) return;
  fail_in(
      fiber,
      format("wgmma outside a whole warpgroup: threads %u to %u of the block are fewer than 128",
             first, threads - 1));
}

void decode_operands(Block& block, WgmmaOperation& operation) {
  const Wgmma& wgmma = operation.instruction;
  const ElementType type = element_of(wgmma.type);
  if (wgmma.a_registers == nullptr) {
    operation.a = decode_operand(wgmma.descriptor_a, 'A', type, 64, wgmma.transpose_a);
    check_bounds(block, operation.a, 'A');
  }
  operation.b = decode_operand(wgmma.descriptor_b, 'B', type, wgmma.n, wgmma.transpose_b);
  check_bounds(block, operation.b, 'B');
}

// The next operation of the warpgroup, begun by the first thread that comes to it.
WgmmaOperation& find_or_begin(Fiber& fiber, const Wgmma& wgmma, uint32_t group, const void* pc) {
  WgmmaQueue& queue = queue_of(fiber);
  const uint64_t index = queue.issued[thread_of(fiber)];
  if (index < queue.end) {
    WgmmaOperation& operation = queue.at(index);
    if (!same_operands(wgmma, operation.instruction) || group != operation.group) {
      fail_operands_differ(fiber, operation, wgmma, group);
    }
    return operation;
  }
  check_warpgroup(fiber);
  WgmmaOperation& operation = queue.push();
  operation.instruction = wgmma;
  operation.group = group;
  operation.issued = 0;
  operation.pc = pc;
  decode_operands(*fiber.block, operation);
  return operation;
}

// Everything the warp may see of the operands must be ordered before them, for every lane.
void check_operand_reads(Warp& warp, const WgmmaOperation& operation) {
  Block& block = *warp.block;
  const Fiber* const first = threads_of(*warp.fibers);
  const Epoch completion(EpochKind::kWgmmaGroup, first->agent, operation.group);
  const auto check = [&](Fiber& fiber, const WgmmaOperand& operand) {
    for_each_chunk(operand, [&](uint32_t address) {
      const uint32_t offset = shared_offset(block, address, 16, 16, "wgmma");
      block.shadow.async_access(&fiber, offset, 16, Access::kRead, Proxy::kAsync, completion,
                                operation.pc);
    });
  };
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    Fiber& fiber = warp.fibers[lane];
    // Lanes that met last time know the same.
    const auto knows_the_same = [&](const Fiber& other) {
      return other.clock.known == fiber.clock.known && other.clock.fenced == fiber.clock.fenced;
    };
    if (std::any_of(warp.fibers, warp.fibers + lane, knows_the_same)) continue;
    if (operation.instruction.a_registers == nullptr) check(fiber, operation.a);
    check(fiber, operation.b);
  }
}

// 128 bytes at a time, once for the warpgroup.
void count_operand_reads(const WgmmaOperation& operation, Counters& counters) {
  const bool a_is_shared = operation.instruction.a_registers == nullptr;
  const uint64_t bytes = 32 * static_cast<uint64_t>(operation.b.extent + (a_is_shared ? 64 : 0));
  counters.shared_load_bytes += bytes;
  counters.shared_wavefronts += bytes / 128;
  counters.shared_wavefronts_ideal += bytes / 128;
}

// Computes what all threads have issued, up to operation `end`.
void compute_until(Block& block, WgmmaQueue& queue, uint64_t end) {
  if (end <= queue.computed) return;
  if (block.worker->launch->options.wgmma == kRandomCompletion) {
    block.cluster->operations_in_flight -= static_cast<uint32_t>(end - queue.computed);
  }
  compute(block, queue, end);
}

// The same before any warp waits for it.
void compute_early(Block& block, WgmmaQueue& queue, const Fiber* threads, uint64_t end) {
  compute_until(block, queue, end);
  if (queue.checks != nullptr) queue.checks->show_computed(threads, queue.computed);
}

void release_waiting_warps(Block& block, WgmmaQueue& queue, Fiber* threads);

// The last thread of the warpgroup has issued the operation of that number.
void issued_by_all(Fiber& fiber, uint64_t index) {
  WgmmaQueue& queue = queue_of(fiber);
  Block& block = *fiber.block;
  const Options& options = launch_of(&fiber).options;
  if (options.count != 0) count_operand_reads(queue.at(index), block.worker->counters);
  if (options.wgmma == kRandomCompletion) ++block.cluster->operations_in_flight;
  if (options.wgmma == kEarly ||
      (options.wgmma == kRandomCompletion && block.cluster->random(2) == 0)) {
    compute_early(block, queue, threads_of(fiber), index + 1);
  }
  if (queue.waiting != 0) release_waiting_warps(block, queue, threads_of(fiber));
}

void issue(Fiber& fiber, const Wgmma& wgmma, const void* pc) {
  WgmmaQueue& queue = queue_of(fiber);
  const uint32_t thread = thread_of(fiber);
  if (!queue.fenced[thread]) {
    fail_in(fiber, "wgmma without a wgmma.fence before the first one of the thread" + location(pc));
  }
  const uint32_t group = fiber.group(GroupKind::kWgmma).add();
  WgmmaOperation& operation = find_or_begin(fiber, wgmma, group, pc);
  const uint64_t index = queue.issued[thread]++;
  operation.accumulators[thread] = wgmma.accumulators;
  operation.a_registers[thread] = wgmma.a_registers;
  if (wgmma.a_registers != nullptr) {
    std::memcpy(operation.a_values[thread], wgmma.a_registers, sizeof operation.a_values[thread]);
  }
  if (queue.checks != nullptr) queue.checks->issue(fiber, operation, index);
  ++operation.issued;
  if (operation.is_issued()) issued_by_all(fiber, index);
}

// In checked launches the lanes of a warp meet, so that one that has gone elsewhere is noticed.
struct Issue {
  const Wgmma& instruction;
  const void* pc;
};

void execute_issue(Warp& warp, Rendezvous& meeting) {
  check_whole_warp(warp, meeting);
  WgmmaQueue& queue = queue_of(*warp.fibers);
  const uint64_t index = queue.issued[thread_of(*warp.fibers)];
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

// ------------------------------------------------------------------ wait

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

void release_waiting_warps(Block& block, WgmmaQueue& queue, Fiber* threads) {
  for (uint32_t warp = 0; warp < kWarpgroupWarps; ++warp) {
    if ((queue.waiting >> warp & 1) == 0 || !is_issued(queue, queue.wanted[warp])) continue;
    queue.waiting &= ~(1u << warp);
    finish_wait(block, queue, threads, warp, queue.wanted[warp]);
    Warp& released = *threads[warp * kWarpSize].warp;
    make_ready(released, released.live);
  }
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

WgmmaOperation& WgmmaQueue::push() {
  if (end - begin == ring.size()) {
    std::vector<WgmmaOperation> larger(std::max<size_t>(16, 2 * ring.size()));
    for (uint64_t i = begin; i < end; ++i) larger[i & (larger.size() - 1)] = at(i);
    ring.swap(larger);
  }
  return at(end++);
}

void WgmmaQueue::clear() {
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
  queue.fenced[thread_of(fiber)] = true;
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
