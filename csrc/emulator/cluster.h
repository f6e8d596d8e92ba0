// Clusters: rank, size, barrier, and the shared memory of the other blocks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

uint32_t cluster_rank();
uint32_t cluster_size();
void cluster_arrive();
void cluster_wait();
// The address, in the block of that rank, of what `address` is in the executing block.
uint32_t map_shared_rank(uint32_t address, uint32_t rank);
void load_shared_cluster(void* value, uint32_t address, size_t bytes);
void store_shared_cluster(uint32_t address, const void* value, size_t bytes);

#pragma GCC visibility pop

}  // namespace rnc::emulator
