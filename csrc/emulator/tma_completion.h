// When the data of TMA instructions moves.
#pragma once

#include <cstdint>

#include "emulator/tma_queue.h"

namespace rnc::emulator {

struct Cluster;

// Moves the data of an operation that is not, or no longer, in the queue, and signals its barrier.
void complete(Cluster& cluster, TmaOperation& operation);

// Completes the stores of a thread in all groups before the given one; `read_only`: only reads
// their sources, the results may reach global memory as late as the cluster's end.
void complete_stores(const Fiber* fiber, uint32_t groups, bool read_only);

}  // namespace rnc::emulator
