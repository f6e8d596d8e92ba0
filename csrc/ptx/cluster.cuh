// Clusters of blocks: rank, barrier, and each other's shared memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/cluster.h"
#endif

namespace rnc::ptx {

// This block's place in its cluster, 0 to cluster_size() - 1; x runs fastest.
__device__ __forceinline__ uint32_t cluster_rank() {
#if defined(__CUDACC__)
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return emulator::cluster_rank();
#endif
}

__device__ __forceinline__ uint32_t cluster_size() {
#if defined(__CUDACC__)
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return emulator::cluster_size();
#endif
}

// All threads of the cluster arrive, later wait; both by whole converged warps. What a thread did
// before it arrived is ordered before what others do after they waited.
__device__ __forceinline__ void cluster_arrive() {
#if defined(__CUDACC__)
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  emulator::cluster_arrive();
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if defined(__CUDACC__)
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  emulator::cluster_wait();
#endif
}

__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The address, in the block of that rank, of what `address` (of shared_address()) is in this one.
__device__ __forceinline__ uint32_t map_shared_rank(uint32_t address, uint32_t rank) {
#if defined(__CUDACC__)
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
#else
  return emulator::map_shared_rank(address, rank);
#endif
}

// Reads what `address` (of map_shared_rank()) names: 4 or 8 bytes, aligned.
template <class T>
__device__ __forceinline__ T load_shared_cluster(uint32_t address) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "4 or 8 trivially copyable bytes");
  T value;
#if defined(__CUDACC__)
  if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(bits) : "r"(address) : "memory");
    memcpy(&value, &bits, sizeof value);
  } else {
    uint64_t bits;
    asm volatile("ld.shared::cluster.b64 %0, [%1];" : "=l"(bits) : "r"(address) : "memory");
    memcpy(&value, &bits, sizeof value);
  }
#else
  emulator::load_shared_cluster(&value, address, sizeof value);
#endif
  return value;
}

template <class T>
__device__ __forceinline__ void store_shared_cluster(uint32_t address,
                                                     std::type_identity_t<T> value) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "4 or 8 trivially copyable bytes");
#if defined(__CUDACC__)
  if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof value);
    asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(address), "r"(bits) : "memory");
  } else {
    uint64_t bits;
    memcpy(&bits, &value, sizeof value);
    asm volatile("st.shared::cluster.b64 [%0], %1;" ::"r"(address), "l"(bits) : "memory");
  }
#else
  emulator::store_shared_cluster(address, &value, sizeof value);
#endif
}

}  // namespace rnc::ptx
