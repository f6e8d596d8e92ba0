// The threads that share a tile: who they are, and how they wait for each other.
#pragma once

#include "ptx/named_barrier.cuh"

namespace rnc {

// All threads of the block.
template <int kBlockThreads>
struct BlockThreads {
  static constexpr int kCount = kBlockThreads;
  static __device__ __forceinline__ int index() { return int(threadIdx.x); }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
};

// The first so many threads of a block that has others: they meet at named barrier 1.
template <int kFirstThreads>
struct LeadingThreads {
  static constexpr int kCount = kFirstThreads;
  static __device__ __forceinline__ int index() { return int(threadIdx.x); }
  static __device__ __forceinline__ void sync() { ptx::barrier_sync(1, kCount); }
};

// The calling thread's warpgroup: warpgroup w meets at named barrier 2 + w.
struct WarpgroupThreads {
  static constexpr int kCount = 128;
  static __device__ __forceinline__ int index() { return int(threadIdx.x) % kCount; }
  static __device__ __forceinline__ int warpgroup() { return int(threadIdx.x) / kCount; }
  static __device__ __forceinline__ void sync() {
    ptx::barrier_sync(uint32_t(2 + warpgroup()), kCount);
  }
};

}  // namespace rnc
