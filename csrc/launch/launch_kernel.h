// The one way a kernel is launched: cudaLaunchKernelEx on the GPU, the emulator on the host.
#pragma once

#include <cstddef>

#include "common/dim3.h"
#include "common/status.h"
#include "launch/early_start.h"
#include "launch/plan.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <cstdio>
#else
#include "emulator/emulator.h"
#endif

namespace rnc {

using Stream = void*;  // a cudaStream_t; ignored under emulation

// When a kernel may start: when the one before it on the stream is over, or already while that one
// runs, as soon as there is room. Every thread of a kernel that starts early has to wait for the
// ones before it (ptx/grid_dependency.cuh).
enum class Start : bool { kLate, kEarly };

#if defined(__CUDACC__)

// Launches `kernel(params)` on `stream`; asynchronous. `name` appears in error messages. `cluster`:
// the blocks along each axis that run together (sm_90); it divides the grid. The emulator wants to
// know how many blocks of the kernel share a multiprocessor; the GPU does. A stream that is
// captured into a CUDA graph keeps both attributes (that of an early start since CUDA 12.3).
template <class Params>
Status launch_kernel(const char* name, void (*kernel)(Params), Dim3 grid, Dim3 block,
                     size_t shared_bytes, Stream stream, const Params& params, Dim3 cluster = {},
                     uint32_t /*blocks_per_multiprocessor*/ = 1, Start start = Start::kLate) {
  constexpr size_t kSharedBytesWithoutOptIn = 48 * 1024;
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kSharedBytesWithoutOptIn) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  constexpr uint32_t kPortableClusterBlocks = 8;
  const uint32_t cluster_blocks = cluster.x * cluster.y * cluster.z;
  if (error == cudaSuccess && cluster_blocks > kPortableClusterBlocks) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  // Code for GPUs older than sm_90 does not wait, also where a newer one has translated it.
  constexpr int kFirstThatWaits = 90;
  const bool may_start_early = start == Start::kEarly && early_start_is_on;
  cudaFuncAttributes code = {};
  if (error == cudaSuccess && may_start_early) error = cudaFuncGetAttributes(&code, kernel);
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid.x, grid.y, grid.z);
    config.blockDim = dim3(block.x, block.y, block.z);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    cudaLaunchAttribute attributes[2] = {};
    config.attrs = attributes;
    const auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = id;
      return attribute.val;
    };
    if (cluster_blocks > 1) {
      add(cudaLaunchAttributeClusterDimension).clusterDim = {cluster.x, cluster.y, cluster.z};
    }
    if (may_start_early && code.ptxVersion >= kFirstThatWaits) {
      add(cudaLaunchAttributeProgrammaticStreamSerialization)
          .programmaticStreamSerializationAllowed = 1;
    }
    error = cudaLaunchKernelEx(&config, kernel, params);
  }
  if (error == cudaSuccess) return Status{};
  (void)cudaGetLastError();  // a refused launch must not surface again in somebody else's call
  thread_local char message[256];
  std::snprintf(message, sizeof message,
                "%s: grid (%u,%u,%u), block (%u,%u,%u), cluster (%u,%u,%u), %zu bytes of shared "
                "memory: %s",
                name, grid.x, grid.y, grid.z, block.x, block.y, block.z, cluster.x, cluster.y,
                cluster.z, shared_bytes, cudaGetErrorString(error));
  return Status{message};
}

// The device that launches go to, for plans.
inline PlanDevice current_device() {
  int index = 0;
  const auto attribute = [&](cudaDeviceAttr name, int& value) {
    return cudaDeviceGetAttribute(&value, name, index) == cudaSuccess;
  };
  int multiprocessors = 0, major = 0, minor = 0;
  const bool known = cudaGetDevice(&index) == cudaSuccess &&
                     attribute(cudaDevAttrMultiProcessorCount, multiprocessors) &&
                     attribute(cudaDevAttrComputeCapabilityMajor, major) &&
                     attribute(cudaDevAttrComputeCapabilityMinor, minor);
  return known ? PlanDevice{multiprocessors, 10 * major + minor} : PlanDevice{};
}

#else

inline PlanDevice current_device() {
  PlanDevice device;
  device.multiprocessors = emulator::multiprocessors();
  device.capability = emulator::capability();
  return device;
}

// Runs `kernel(params)` on the emulator, to completion. The last argument says how many registers
// its threads have.
template <class Params>
Status launch_kernel(const char* name, void (*kernel)(Params), Dim3 grid, Dim3 block,
                     size_t shared_bytes, Stream, const Params& params, Dim3 cluster = {},
                     uint32_t blocks_per_multiprocessor = 1, Start start = Start::kLate) {
  const auto call = [](void* function, const void* argument) {
    reinterpret_cast<void (*)(Params)>(function)(*static_cast<const Params*>(argument));
  };
  return Status{emulator::launch({name, grid, block, cluster, shared_bytes, call,
                                  reinterpret_cast<void*>(kernel), &params, sizeof(Params),
                                  blocks_per_multiprocessor, start == Start::kEarly})};
}

#endif

}  // namespace rnc
