// Where blocks and clusters lie in a grid.
#pragma once

#include <cstdint>

#include "common/dim3.h"

namespace rnc::emulator {

inline uint64_t count(const Dim3& extent) { return uint64_t{extent.x} * extent.y * extent.z; }

inline uint64_t linear_index(const Dim3& extent, const Dim3& index) {
  return index.x + uint64_t{extent.x} * (index.y + uint64_t{extent.y} * index.z);
}

inline Dim3 index_at(const Dim3& extent, uint64_t linear) {
  return {static_cast<uint32_t>(linear % extent.x),
          static_cast<uint32_t>(linear / extent.x % extent.y),
          static_cast<uint32_t>(linear / extent.x / extent.y)};
}

inline Dim3 clusters_of(const Dim3& grid, const Dim3& cluster) {
  return {grid.x / cluster.x, grid.y / cluster.y, grid.z / cluster.z};
}

// The block of a rank in the cluster of that linear index.
inline Dim3 block_in_cluster(const Dim3& grid, const Dim3& cluster, uint64_t index, uint32_t rank) {
  const Dim3 at = index_at(clusters_of(grid, cluster), index), in = index_at(cluster, rank);
  return {at.x * cluster.x + in.x, at.y * cluster.y + in.y, at.z * cluster.z + in.z};
}

// Whether two blocks, by linear index, belong to one cluster.
inline bool in_one_cluster(const Dim3& grid, const Dim3& cluster, uint64_t a, uint64_t b) {
  const Dim3 p = index_at(grid, a), q = index_at(grid, b);
  return p.x / cluster.x == q.x / cluster.x && p.y / cluster.y == q.y / cluster.y &&
         p.z / cluster.z == q.z / cluster.z;
}

}  // namespace rnc::emulator
