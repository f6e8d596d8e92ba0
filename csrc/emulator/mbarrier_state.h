// The table of a cluster's mbarriers: for their own instructions, and for TMA loads.
#pragma once

#include <cstdint>
#include <string>

#include "emulator/fiber.h"

namespace rnc::emulator {

inline constexpr uint32_t kMaxMbarrierCount = (1u << 20) - 1;  // of arrivals, of bytes either way
inline constexpr size_t kMbarrierBytes = 8;

// "mbarrier 'full' at offset 1024 of shared memory"
std::string describe_mbarrier(const Cluster& cluster, uint32_t slot);

// A load that `issuer` starts names the mbarrier at `address` of `block` (rank bits are ignored):
// judges that it is initialised and that its initialisation is fenced, and binds the load to the
// phase in progress, which must not complete before the load does. `what` names the instruction.
BoundPhase bind_load(Fiber* issuer, Block& block, uint32_t address, const char* what,
                     const void* pc);

// From when on what the load writes is known: the epoch of its writes.
Epoch completion_of(const Cluster& cluster, const BoundPhase& bound);

// The load is complete and has brought `bytes`; threads may become ready.
void complete_load(Cluster& cluster, const BoundPhase& bound, uint32_t bytes);

// The last thread of a block exits; `block_knows` is what its threads knew when they exited.
void check_loads_are_waited_for(const Fiber& last, const Knowledge& block_knows);

// ------------------------------------------------------------------ for mbarrier.cpp

// The entry for an mbarrier at this offset, or the number of entries if there is none.
uint32_t find_mbarrier(const Block& block, uint32_t offset);

// Makes the bytes at this offset name the entry.
void store_contents(const Block& block, uint32_t offset, uint32_t slot);

// The entry that an instruction of the fiber names; abandons the block if there is none.
uint32_t resolve_mbarrier(Fiber& fiber, Block& block, uint32_t address, bool needs_fence,
                          const char* what, const void* pc);

inline MbarrierState& state_of(Cluster& cluster, uint32_t slot) {
  return cluster.mbarriers.states[slot];
}

void add_bytes(const Cluster& cluster, MbarrierState& state, uint32_t slot, int64_t bytes);

// Completes the phase if nothing is pending; to be called after every change.
void settle(Cluster& cluster, uint32_t slot);

}  // namespace rnc::emulator
