// Kernels that copy with cp.async, with one planted fault each, beside twins without it.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "ptx/cp_async.cuh"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"
#include "ptx/shared_address.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kMissingWait,
  kWaitForTooFew,
  kMissingCommit,
  kMissingBarrier,
  kOverwrittenTooEarly,
};

// ------------------------------------------------------------------ tiles of 64 vectors through
// two stages; every thread stores its mirror image's vector

struct alignas(16) Vector {
  float values[4];
};

constexpr uint32_t kThreads = 64;
constexpr uint32_t kStages = 2;

struct PipelineParams {
  const Vector* x;
  Vector* y;
  uint32_t tiles;
};

struct PipelineStorage {
  Vector stages[kStages][kThreads];
};

template <Fault kFault>
__global__ void __launch_bounds__(kThreads)
    cp_async_pipeline(const __grid_constant__ PipelineParams p) {
  PipelineStorage& shared = dynamic_smem<PipelineStorage>();
  const auto load = [&](uint32_t tile) {
    if (tile < p.tiles) {
      ptx::cp_async<16>(ptx::shared_address(&shared.stages[tile % kStages][threadIdx.x]),
                        p.x + tile * kThreads + threadIdx.x);
    }
    if (kFault != Fault::kMissingCommit) ptx::cp_async_commit();
  };

  // Prefetch the first tile.
  load(0);
  for (uint32_t tile = 0; tile < p.tiles; ++tile) {
    // Prefetch the next tile.
    load(tile + 1);
    // Wait for this one.
    if (kFault == Fault::kWaitForTooFew) {
      ptx::cp_async_wait<2>();
    } else if (kFault != Fault::kMissingWait) {
      ptx::cp_async_wait<1>();
    }
    if (kFault != Fault::kMissingBarrier) __syncthreads();
    // Store it, mirrored.
    const Vector vector = shared.stages[tile % kStages][kThreads - 1 - threadIdx.x];
    ptx::store_global(p.y + tile * kThreads + threadIdx.x, vector);
    if (kFault != Fault::kOverwrittenTooEarly) __syncthreads();
  }
  if (kFault == Fault::kMissingWait) ptx::cp_async_wait_all();
}

template <Fault kFault>
Status launch_pipeline(const LaunchArguments& arguments) {
  const PipelineParams params{arguments.buffer<const Vector>(0), arguments.buffer<Vector>(1),
                              arguments.number<uint32_t>(0)};
  return launch_kernel("cp_async_pipeline", cp_async_pipeline<kFault>, Dim3{1, 1, 1},
                       Dim3{kThreads, 1, 1}, sizeof(PipelineStorage), nullptr, params);
}

const KernelRegistration pipelines[] = {
    {"cp_async_pipeline", launch_pipeline<Fault::kNone>},
    {"cp_async_pipeline_missing_wait", launch_pipeline<Fault::kMissingWait>},
    {"cp_async_pipeline_wait_for_too_few", launch_pipeline<Fault::kWaitForTooFew>},
    {"cp_async_pipeline_missing_commit", launch_pipeline<Fault::kMissingCommit>},
    {"cp_async_pipeline_missing_barrier", launch_pipeline<Fault::kMissingBarrier>},
    {"cp_async_pipeline_overwritten_too_early", launch_pipeline<Fault::kOverwrittenTooEarly>},
};

// ------------------------------------------------------------------ one copy per thread, of any
// legal or illegal kind: y = what shared memory holds afterwards

struct CopyParams {
  const unsigned char* x;
  unsigned char* y;
  uint32_t source_bytes;
  uint32_t source_shift;
  uint32_t destination_shift;
  bool wait;
};

constexpr uint32_t kCopyThreads = 32;

template <uint32_t kBytes>
struct CopyStorage {
  alignas(16) unsigned char bytes[kCopyThreads * kBytes];
};

template <uint32_t kBytes>
__global__ void __launch_bounds__(kCopyThreads)
    cp_async_copy(const __grid_constant__ CopyParams p) {
  CopyStorage<kBytes>& shared = dynamic_smem<CopyStorage<kBytes>>();
  const uint32_t offset = threadIdx.x * kBytes;
  ptx::cp_async<kBytes>(ptx::shared_address(shared.bytes) + offset + p.destination_shift,
                        p.x + offset + p.source_shift, p.source_bytes);
  if (!p.wait) return;
  ptx::cp_async_wait_all();
  __syncwarp();
  for (uint32_t i = 0; i < kBytes; ++i) {
    ptx::store_global(p.y + offset + i, shared.bytes[offset + i]);
  }
}

template <uint32_t kBytes>
Status launch_copy(const LaunchArguments& arguments) {
  const CopyParams params{arguments.buffer<const unsigned char>(0),
                          arguments.buffer<unsigned char>(1),
                          arguments.number<uint32_t>(0),
                          arguments.number<uint32_t>(1),
                          arguments.number<uint32_t>(2),
                          arguments.number<bool>(3)};
  return launch_kernel("cp_async_copy", cp_async_copy<kBytes>, Dim3{1, 1, 1},
                       Dim3{kCopyThreads, 1, 1}, sizeof(CopyStorage<kBytes>), nullptr, params);
}

const KernelRegistration copies[] = {{"cp_async_copy_4", launch_copy<4>},
                                     {"cp_async_copy_8", launch_copy<8>},
                                     {"cp_async_copy_16", launch_copy<16>}};

}  // namespace
}  // namespace rnc
