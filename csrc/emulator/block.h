// Prepares and runs blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/fiber.h"

namespace rnc::emulator {

// The window of shared memory lies in the middle of a larger mapping without access, so that a
// wrong index faults.
inline constexpr size_t kSharedGuardBytes = 256 * 1024;
inline constexpr size_t kSharedWindowBytes = 228 * 1024;
inline constexpr size_t kSharedMapBytes =
    kSharedGuardBytes + kSharedWindowBytes + kSharedGuardBytes;

// Makes room for the fibers and the shared memory of a launch; throws std::bad_alloc if the system
// refuses it.
void begin_launch(Worker& worker, Launch& launch);

// Runs one block to completion, or until it is abandoned.
void run_block(Worker& worker, uint64_t index);

// Whether an address lies in the worker's window of shared memory or in the guards around it.
inline bool near_shared_memory(const Worker& worker, uint64_t address) {
  return address - reinterpret_cast<uint64_t>(worker.shared_map) < kSharedMapBytes;
}

}  // namespace rnc::emulator
