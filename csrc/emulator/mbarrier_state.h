// What TMA loads and cluster code need of the mbarriers of a cluster.
#pragma once

#include <cstdint>
#include <string>

#include "emulator/clock.h"

namespace rnc::emulator {

struct Block;
struct Cluster;
struct Fiber;

// "mbarrier 'full' at offset 1024 of shared memory"
std::string describe_mbarrier(const Cluster& cluster, uint32_t slot);

// The phase of an mbarrier that an asynchronous load signals.
struct BoundPhase {
  uint32_t slot;
  uint32_t phase;
};

// A load that `issuer` starts names the mbarrier at `address` (of `block`, any rank bits are
// ignored): judges that it is initialised and that its initialisation is fenced, and binds the load
// to the phase in progress, which must not complete before the load does. `what` names the
// instruction. The loads' writes are known to whoever knows `completion(...)`.
BoundPhase bind_load(Fiber* issuer, Block& block, uint32_t address, const char* what,
                     const void* pc);
Epoch completion_of(const Cluster& cluster, const BoundPhase& bound);

// The load is complete and has brought `bytes`; threads may become ready.
void complete_load(Cluster& cluster, const BoundPhase& bound, uint32_t bytes);

}  // namespace rnc::emulator
