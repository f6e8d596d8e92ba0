// Fences between the generic and the asynchronous proxy, and after the initialisation of mbarriers.
#pragma once

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/mbarrier.h"
#include "emulator/proxy_fence.h"
#endif

namespace rnc::ptx {

// Orders all accesses to shared memory that this thread knows of, its own and those it has
// synchronised with, before later ones of TMA and wgmma.
__device__ __forceinline__ void fence_proxy_async() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  emulator::fence_proxy_async();
#endif
}

// Makes this thread's mbarrier initialisations visible to TMA and to the other blocks of the
// cluster; a barrier must follow.
__device__ __forceinline__ void fence_mbarrier_init() {
#if defined(__CUDACC__)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  emulator::fence_mbarrier_init();
#endif
}

}  // namespace rnc::ptx
