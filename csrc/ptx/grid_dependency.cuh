// Programmatic dependent launch (sm_90): a kernel that was launched to start early
// (launch/launch_kernel.h) may run while the one before it on its stream still does. GPUs before it
// start one kernel after the other, and these are nothing there.
#pragma once

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/grid_dependency.h"
#endif

namespace rnc::ptx {

// Waits until the kernels before this one are over and what they wrote can be seen. Every thread of
// a kernel that may start early calls it before its first access to global memory, parameters
// aside, and before it exits: so the kernel is not over before those that it waited for are, and to
// wait for the last one is to wait for all. Nothing to wait for where it did not start early.
__device__ __forceinline__ void grid_dependency_wait() {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#else
  emulator::grid_dependency_wait();
#endif
}

// The kernel behind this one may start early once every block of this one has called it or is over,
// and where it finds room. It promises nothing: that kernel waits until this one is over.
__device__ __forceinline__ void grid_dependency_launch() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace rnc::ptx
