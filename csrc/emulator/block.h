// Prepares and runs blocks.
#pragma once

#include <cstdint>

#include "emulator/fiber.h"

namespace rnc::emulator {

// Makes room for the fibers and the shared memory of a launch; throws std::bad_alloc if the system
// refuses it.
void begin_launch(Worker& worker, Launch& launch);

// Runs one block to completion, or until it is abandoned.
void run_block(Worker& worker, uint64_t index);

// Whether an address lies in the worker's window of shared memory or in the guards around it.
bool near_shared_memory(const Worker& worker, uint64_t address);

}  // namespace rnc::emulator
