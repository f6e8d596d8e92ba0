#include "emulator/cluster.h"

#include "emulator/cluster_access.h"
#include "emulator/fiber.h"

namespace rnc::emulator {

void ClusterBarrier::clear() { arrived = 0; }

void visit_block(Fiber*, Block&, const void*) {}
void cluster_thread_exits(Fiber&) {}
void cluster_thread_exited(Fiber&) {}

uint32_t cluster_rank() { return self()->block->rank; }
uint32_t cluster_size() { return cluster_of(self()).size; }

}  // namespace rnc::emulator
