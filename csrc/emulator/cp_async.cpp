#include "emulator/cp_async.h"

#include <cstring>

#include "emulator/access.h"
#include "emulator/agents.h"
#include "emulator/device_memory.h"
#include "emulator/fiber.h"
#include "emulator/shared_pointer.h"
#include "emulator/shared_window.h"

namespace rnc::emulator {

namespace {

// The whole copies, which are nearly all of them, without a call of memcpy.
inline void move(char* destination, const void* source, uint32_t bytes, uint32_t source_bytes) {
  if (bytes == 16 && source_bytes == 16) {
    std::memcpy(destination, source, 16);
    return;
  }
  std::memcpy(destination, source, source_bytes);
  std::memset(destination + source_bytes, 0, size_t{bytes} - source_bytes);
}

inline void complete(Cluster& cluster, CpAsyncCopy& copy) {
  move(copy.destination, copy.source, copy.bytes, copy.source_bytes);
  copy.bytes = 0;
  --cluster.operations_in_flight;
}

// `bytes` is a power of two.
inline bool is_aligned(uint64_t address, uint32_t bytes) { return (address & (bytes - 1)) == 0; }

// shared_pointer, with the common case in line.
inline char* destination_pointer(const Block& block, uint32_t address, uint32_t bytes,
                                 size_t available) {
  const uint32_t offset = address - kSharedBase;
  if (is_aligned(offset, bytes) && uint64_t{offset} + bytes <= available) {
    return block.shared + offset;
  }
  return shared_pointer(block, address, bytes, bytes, "the destination of cp.async");
}

[[noreturn, gnu::cold, gnu::noinline]] void fail_misaligned(const void* source, uint32_t bytes,
                                                            const void* pc) {
  fail(format("misaligned cp.async of %u bytes from ", bytes) + describe_address(source) +
       location(pc));
}

[[noreturn, gnu::cold, gnu::noinline]] void fail_source_bytes(uint32_t source_bytes, uint32_t bytes,
                                                              const void* pc) {
  fail(format("cp.async of %u bytes with a source of %u bytes", bytes, source_bytes) +
       location(pc));
}

// Judged and counted at issue, whenever the data moves: the source is read by the thread, the
// destination is written at the group's completion, which the thread must wait for.
[[gnu::noinline]] void observe_copy(Fiber* fiber, const char* destination, const void* source,
                                    uint32_t bytes, uint32_t source_bytes, uint32_t group,
                                    const void* pc) {
  if (source_bytes != 0) {
    launch_of(fiber).memory.access(fiber, reinterpret_cast<uint64_t>(source), source_bytes,
                                   Access::kRead, pc);
  }
  observe_async(fiber, *fiber->block, static_cast<size_t>(destination - fiber->block->shared),
                bytes, Access::kWrite, Proxy::kGeneric,
                Epoch(EpochKind::kCopyGroup, fiber->agent, group), pc);
}

// Moves the data of all groups before the given one.
void complete_groups(Fiber* fiber, uint32_t groups) {
  CpAsyncQueue& queue = fiber->copies;
  while (queue.first < queue.copies.size() && queue.copies[queue.first].group < groups) {
    CpAsyncCopy& copy = queue.copies[queue.first++];
    if (copy.bytes != 0) complete(cluster_of(fiber), copy);
  }
  if (queue.first == queue.copies.size()) queue.clear();
}

}  // namespace

void cp_async(uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes) {
  Fiber* const fiber = self();
  if (source_bytes > bytes) {
    fail_source_bytes(source_bytes, bytes, __builtin_return_address(0));
  }
  if (!is_aligned(reinterpret_cast<uintptr_t>(source), bytes)) {
    fail_misaligned(source, bytes, __builtin_return_address(0));
  }
  const Launch& launch = launch_of(fiber);
  char* const target =
      destination_pointer(*fiber->block, destination, bytes, launch.request.shared_bytes);
  const uint32_t group = fiber->group(GroupKind::kCopy).add();
  if (observing) {
    observe_copy(fiber, target, source, bytes, source_bytes, group, __builtin_return_address(0));
  }
  Cluster& cluster = cluster_of(fiber);
  const int32_t completion = launch.options.cp_async;
  if (completion == kEarly || (completion == kRandomCompletion && cluster.random(2) == 0)) {
    move(target, source, bytes, source_bytes);
    return;
  }
  ++cluster.operations_in_flight;
  fiber->copies.copies.emplace_back(target, source, group, static_cast<uint8_t>(bytes),
                                    static_cast<uint8_t>(source_bytes));
}

void cp_async_commit() { self()->group(GroupKind::kCopy).commit(); }

void cp_async_wait(uint32_t newest_groups_left) {
  Fiber* const fiber = self();
  complete_groups(fiber, fiber->group(GroupKind::kCopy).wait(newest_groups_left, fiber->clock.own));
}

void cp_async_wait_all() {
  cp_async_commit();
  cp_async_wait(0);
}

// Any copy of any thread: the hardware keeps no order among them.
bool cp_async_complete_one(Cluster& cluster) {
  const uint32_t start = cluster.random(cluster.threads);
  for (uint32_t i = 0; i < cluster.threads; ++i) {
    Fiber& fiber = cluster.fibers[(start + i) % cluster.threads];
    CpAsyncQueue& queue = fiber.copies;
    if (queue.first == queue.copies.size()) continue;
    const auto pending = static_cast<uint32_t>(queue.copies.size() - queue.first);
    CpAsyncCopy& copy = queue.copies[queue.first + cluster.random(pending)];
    if (copy.bytes == 0) continue;
    complete(cluster, copy);
    return true;
  }
  return false;
}

}  // namespace rnc::emulator
