// mbarriers: barriers in shared memory that count arrivals of threads and bytes of asynchronous
// copies. A phase completes when both counts are zero; phases alternate in parity, from 0.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"
#include "ptx/shared_address.cuh"

#if !defined(__CUDACC__)
#include "emulator/cluster.h"
#include "emulator/mbarrier.h"
#endif

namespace rnc::ptx {

// A member of the kernel's shared storage. Opaque: only these functions touch it.
struct alignas(8) Mbarrier {
  uint64_t state;
};

// `count` arrivals complete a phase, 1 to 2^20 - 1. `name` appears in the emulator's messages.
__device__ __forceinline__ void mbarrier_init(Mbarrier& barrier, uint32_t count,
                                              const char* name = nullptr) {
#if defined(__CUDACC__)
  (void)name;
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(count)
               : "memory");
#else
  emulator::mbarrier_init(shared_address(&barrier), count, name);
#endif
}

// Afterwards its memory may be used for something else.
__device__ __forceinline__ void mbarrier_invalidate(Mbarrier& barrier) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
#else
  emulator::mbarrier_invalidate(shared_address(&barrier));
#endif
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier& barrier) {
#if defined(__CUDACC__)
  asm volatile(
      "mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier))
      : "memory");
#else
  emulator::mbarrier_arrive(shared_address(&barrier), 1);
#endif
}

// One predicated instruction instead of a branch: the warp stays converged.
__device__ __forceinline__ void mbarrier_arrive_if(Mbarrier& barrier, bool predicate) {
#if defined(__CUDACC__)
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %1, 0;\n"
      "@p mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(static_cast<uint32_t>(predicate))
      : "memory");
#else
  if (predicate) emulator::mbarrier_arrive(shared_address(&barrier), 1, /*alone=*/false);
#endif
}

// Arrives at the mbarrier in the same place of another block of the cluster (or of this one). What
// this thread has done before is there for those who wait.
__device__ __forceinline__ void mbarrier_arrive_cluster(Mbarrier& barrier, uint32_t rank) {
#if defined(__CUDACC__)
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(rank)
      : "memory");
#else
  emulator::mbarrier_arrive(emulator::map_shared_rank(shared_address(&barrier), rank), 1);
#endif
}

// The same to give back memory that this thread has read, and nothing else: what it wrote may be
// there later for those who wait. A release of the whole cluster costs a fence of the whole GPU
// (MEMBAR.ALL.GPU), this one costs nothing.
__device__ __forceinline__ void mbarrier_give_back_cluster_if(Mbarrier& barrier, uint32_t rank,
                                                              bool predicate) {
#if defined(__CUDACC__)
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b32 remote;\n"
      "setp.ne.b32 p, %2, 0;\n"
      "@p mapa.shared::cluster.u32 remote, %0, %1;\n"
      "@p mbarrier.arrive.release.cta.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(rank), "r"(static_cast<uint32_t>(predicate))
      : "memory");
#else
  if (!predicate) return;
  const uint32_t remote = emulator::map_shared_rank(shared_address(&barrier), rank);
  emulator::mbarrier_arrive(remote, 1, /*alone=*/false);
#endif
}

// Adds to the bytes that this phase waits for; at most 2^20 - 1 may be pending.
__device__ __forceinline__ void mbarrier_expect_tx(Mbarrier& barrier, uint32_t bytes) {
#if defined(__CUDACC__)
  asm volatile(
      "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
      "r"(bytes)
      : "memory");
#else
  emulator::mbarrier_expect_tx(shared_address(&barrier), bytes);
#endif
}

__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier& barrier, uint32_t bytes) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(&barrier)),
               "r"(bytes)
               : "memory");
#else
  emulator::mbarrier_arrive_expect_tx(shared_address(&barrier), bytes);
#endif
}

// Whether the phase of this parity is complete; waits for a while if it is not.
__device__ __forceinline__ bool mbarrier_try_wait(Mbarrier& barrier, uint32_t parity) {
#if defined(__CUDACC__)
  uint32_t complete;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}"
      : "=r"(complete)
      : "r"(shared_address(&barrier)), "r"(parity)
      : "memory");
  return complete != 0;
#else
  return emulator::mbarrier_try_wait(shared_address(&barrier), parity);
#endif
}

// Waits until the phase of this parity is complete.
__device__ __forceinline__ void mbarrier_wait(Mbarrier& barrier, uint32_t parity) {
#if defined(__CUDACC__)
  while (!mbarrier_try_wait(barrier, parity)) {
  }
#else
  emulator::mbarrier_wait(shared_address(&barrier), parity);
#endif
}

}  // namespace rnc::ptx
