// A block's 16 named barriers: some of its warps meet, or say that they have come so far.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/named_barrier.h"
#endif

namespace rnc::ptx {

// Waits until `threads` threads, a multiple of 32, have reached barrier `id` (0 to 15; 0 is
// __syncthreads), and orders memory among them.
__device__ __forceinline__ void barrier_sync(uint32_t id, uint32_t threads) {
#if defined(__CUDACC__)
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulator::barrier_sync(id, threads);
#endif
}

// Counts as one of the threads without waiting: what this thread did before is ordered before what
// those do that wait.
__device__ __forceinline__ void barrier_arrive(uint32_t id, uint32_t threads) {
#if defined(__CUDACC__)
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulator::barrier_arrive(id, threads);
#endif
}

}  // namespace rnc::ptx
