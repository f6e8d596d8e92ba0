// cp.async (sm_80): copies from global to shared memory without registers in between. A thread puts
// its copies into groups and waits for groups; other threads see the data after a barrier that
// follows the wait.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/cp_async.h"
#endif

namespace rnc::ptx {

// Copies `source_bytes` (at most kBytes) from `source` to `destination` and fills the rest with
// zeros; with 0 the source is not read. Both addresses are aligned to kBytes. 16 bytes bypass L1.
template <uint32_t kBytes>
__device__ __forceinline__ void cp_async(uint32_t destination, const void* source,
                                         uint32_t source_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(__CUDACC__)
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
                 "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source),
                 "n"(kBytes), "r"(source_bytes)
                 : "memory");
  }
#else
  emulator::cp_async(destination, source, kBytes, source_bytes);
#endif
}

// Closes a group: the thread's copies since the previous one.
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::cp_async_commit();
#endif
}

// Waits until at most the newest kGroups groups of this thread are incomplete.
template <uint32_t kGroups>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  emulator::cp_async_wait(kGroups);
#endif
}

// Waits for every copy of this thread, whether it is in a group or not.
__device__ __forceinline__ void cp_async_wait_all() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  emulator::cp_async_wait_all();
#endif
}

}  // namespace rnc::ptx
