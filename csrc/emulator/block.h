// Prepares and runs the blocks of a cluster.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/fiber.h"

namespace rnc::emulator {

// The windows of shared memory of a cluster's blocks lie at regular distances in a mapping without
// access, so that a wrong index faults.
inline constexpr size_t kSharedGuardBytes = 256 * 1024;
inline constexpr size_t kSharedWindowBytes = 228 * 1024;
inline constexpr size_t kSharedStrideBytes = 1024 * 1024;
inline constexpr size_t kSharedMapBytes = kMaxClusterBlocks * kSharedStrideBytes;
static_assert(kSharedGuardBytes + kSharedWindowBytes + kSharedGuardBytes <= kSharedStrideBytes);

// Makes room for the fibers and the shared memory of a launch; throws std::bad_alloc if the system
// refuses it.
void begin_launch(Worker& worker, Launch& launch);

// Runs the blocks of one cluster to completion, or until they are abandoned.
void run_cluster(Worker& worker, uint64_t index);

// Whether an address lies in a window of shared memory or in the guards around it.
inline bool near_shared_memory(const Worker& worker, uint64_t address) {
  return address - reinterpret_cast<uint64_t>(worker.shared_map) < kSharedMapBytes;
}

// The block in or near whose window the address lies; the executing one where that window belongs
// to no block.
inline Block& window_at(Worker& worker, Fiber* fiber, uint64_t address) {
  const uint64_t rank =
      (address - reinterpret_cast<uint64_t>(worker.shared_map)) / kSharedStrideBytes;
  return rank < worker.cluster.size ? worker.cluster.blocks[rank] : *fiber->block;
}

}  // namespace rnc::emulator
