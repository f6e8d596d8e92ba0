// How the threads of a warpgroup state an operation: all the same, of legal operands, after a
// fence.
#include <algorithm>
#include <cstring>

#include "emulator/access.h"
#include "emulator/shared_pointer.h"
#include "emulator/wgmma_warpgroup.h"

namespace rnc::emulator {

namespace {

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

// By the first thread that comes to it.
[[gnu::noinline]] WgmmaOperation& begin_operation(Fiber& fiber, const Wgmma& wgmma, uint32_t group,
                                                  const void* pc) {
  check_warpgroup(fiber);
  WgmmaOperation& operation = queue_of(fiber).push();
  operation.instruction = wgmma;
  operation.group = group;
  operation.issued = 0;
  operation.pc = pc;
  decode_operands(*fiber.block, operation);
  return operation;
}

// The operation of the warpgroup that comes next for the thread.
WgmmaOperation& find_or_begin(Fiber& fiber, const Wgmma& wgmma, uint32_t group, const void* pc) {
  WgmmaQueue& queue = queue_of(fiber);
  const uint64_t index = queue.issued[thread_in_warpgroup(fiber)];
  if (index >= queue.end) return begin_operation(fiber, wgmma, group, pc);
  WgmmaOperation& operation = queue.at(index);
  if (!same_operands(wgmma, operation.instruction) || group != operation.group) {
    fail_operands_differ(fiber, operation, wgmma, group);
  }
  return operation;
}

[[noreturn, gnu::cold, gnu::noinline]] void fail_unfenced(const Fiber& fiber, const void* pc) {
  fail_in(fiber, "wgmma without a wgmma.fence before the first one of the thread" + location(pc));
}

// 128 bytes at a time, once for the warpgroup.
void count_operand_reads(const WgmmaOperation& operation, Counters& counters) {
  const bool a_is_shared = operation.instruction.a_registers == nullptr;
  const uint64_t bytes = 32 * static_cast<uint64_t>(operation.b.extent + (a_is_shared ? 64 : 0));
  counters.shared_load_bytes += bytes;
  counters.shared_wavefronts += bytes / 128;
  counters.shared_wavefronts_ideal += bytes / 128;
}

// The last thread of the warpgroup has issued the operation of that number.
[[gnu::noinline]] void issued_by_all(Fiber& fiber, uint64_t index) {
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

}  // namespace

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

void issue(Fiber& fiber, const Wgmma& wgmma, const void* pc) {
  WgmmaQueue& queue = queue_of(fiber);
  const uint32_t thread = thread_in_warpgroup(fiber);
  if (!queue.fenced[thread]) fail_unfenced(fiber, pc);
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

}  // namespace rnc::emulator
