// What all probes share: parameters, and their registration under a name.
#pragma once

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"

namespace rnc::probes {

// Buffers and numbers as tests/probes/probe.py passes them.
struct ProbeParams {
  static constexpr int kInputs = 3, kNumbers = 40;

  uint32_t* out;
  const uint32_t* in[kInputs];
  int64_t numbers[kNumbers];
};

struct Shape {
  uint32_t blocks, threads;
  size_t shared_bytes = 0;
  uint32_t cluster = 1;
};

inline ProbeParams probe_params(const LaunchArguments& arguments) {
  ProbeParams params = {};
  params.out = arguments.buffer<uint32_t>(0);
  for (int i = 0; i < ProbeParams::kInputs; ++i) {
    params.in[i] = arguments.buffer<const uint32_t>(1 + i);
  }
  for (int i = 0; i < ProbeParams::kNumbers; ++i) params.numbers[i] = arguments.numbers[i];
  return params;
}

// The launch function of a kernel that needs nothing but its parameters.
template <void (*kKernel)(ProbeParams), Shape kShape>
Status launch_probe(const LaunchArguments& arguments) {
  return launch_kernel("probe", kKernel, Dim3{kShape.blocks, 1, 1}, Dim3{kShape.threads, 1, 1},
                       kShape.shared_bytes, nullptr, probe_params(arguments),
                       Dim3{kShape.cluster, 1, 1});
}

inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// Copies words between global and shared memory with all threads of the block.
__device__ __forceinline__ void copy_in(uint32_t* shared, const uint32_t* global, uint32_t words) {
  for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) {
    shared[i] = ptx::load_global(global + i);
  }
}
__device__ __forceinline__ void copy_out(uint32_t* global, const uint32_t* shared, uint32_t words) {
  for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) {
    ptx::store_global(global + i, shared[i]);
  }
}
__device__ __forceinline__ void fill(uint32_t* shared, uint32_t word, uint32_t words) {
  for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) shared[i] = word;
}

// What shared memory holds where nothing was meant to be written.
inline constexpr uint32_t kUntouched = 0xCDCDCDCDu;

}  // namespace rnc::probes

#define RNC_PROBE(name, kernel, ...) \
  const KernelRegistration name##_registration{#name, launch_probe<kernel, Shape{__VA_ARGS__}>};
