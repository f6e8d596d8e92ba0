// Matrix instructions used in ways that the hardware does not define.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "matrix_tiles.cuh"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/ldmatrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/wgmma.cuh"

namespace rnc {
namespace {

// One number, whose meaning is the kernel's own.
struct Params {
  int64_t number;
};

struct MisuseStorage {
  StagedTiles tiles;
  ptx::Mbarrier barrier;
};

// Zeros for every instruction to work on, and the descriptors of a 64 x 32 product.
struct Operands {
  uint64_t a, b;
};
__device__ Operands prepare() {
  MisuseStorage& shared = dynamic_smem<MisuseStorage>();
  auto* const words = reinterpret_cast<uint32_t*>(&shared.tiles);
  for (uint32_t i = threadIdx.x; i < sizeof shared.tiles / 4; i += blockDim.x) words[i] = 0;
  if (threadIdx.x == 0) ptx::mbarrier_init(shared.barrier, 1, "barrier");
  ptx::fence_proxy_async();
  __syncthreads();
  return {descriptor_of(shared.tiles.stages[0].a), descriptor_of(shared.tiles.stages[0].b)};
}

__device__ uint32_t row_address() {
  const Tiles& tiles = dynamic_smem<MisuseStorage>().tiles.stages[0];
  return ptx::shared_address(tiles.a) + threadIdx.x % 32 * 16;
}

// ------------------------------------------------------------------ ldmatrix, stmatrix, mma.sync
// Adds the number to the row address of lane 9.
__global__ void __launch_bounds__(32) ldmatrix_wrong_address(const __grid_constant__ Params p) {
  prepare();
  uint32_t registers[4];
  const auto offset = static_cast<uint32_t>(threadIdx.x == 9 ? p.number : 0);
  ptx::ldmatrix(registers, row_address() + offset);
}

__global__ void __launch_bounds__(32) stmatrix_wrong_address(const __grid_constant__ Params p) {
  prepare();
  const uint32_t registers[4] = {};
  const auto offset = static_cast<uint32_t>(threadIdx.x == 9 ? p.number : 0);
  ptx::stmatrix(row_address() + offset, registers);
}

__global__ void __launch_bounds__(32) ldmatrix_different_forms(const __grid_constant__ Params) {
  prepare();
  uint32_t registers[4];
  if (threadIdx.x == 9) {
    ptx::ldmatrix<4, true>(registers, row_address());
  } else {
    ptx::ldmatrix<4>(registers, row_address());
  }
}

__global__ void __launch_bounds__(32) ldmatrix_part_of_a_warp(const __grid_constant__ Params) {
  prepare();
  if (threadIdx.x == 9) return;
  uint32_t registers[1];
  ptx::ldmatrix(registers, row_address());
}

// One lane works alone on an mbarrier and comes back to its warp; number: whether the warp waits
// for it.
__device__ void work_alone(const Params& p) {
  if (threadIdx.x == 9) ptx::mbarrier_arrive(dynamic_smem<MisuseStorage>().barrier);
  if (p.number != 0) __syncwarp();
}

__global__ void __launch_bounds__(32) ldmatrix_not_converged(const __grid_constant__ Params p) {
  prepare();
  work_alone(p);
  uint32_t registers[1];
  ptx::ldmatrix(registers, row_address());
}

__global__ void __launch_bounds__(32) stmatrix_race(const __grid_constant__ Params) {
  prepare();
  Tiles& tiles = dynamic_smem<MisuseStorage>().tiles.stages[0];
  if (threadIdx.x == 31) tiles.a[5 * 16] = 1;  // lane 5's row
  const uint32_t registers[1] = {};
  ptx::stmatrix(row_address(), registers);
}

template <bool kTwoShapes>
__global__ void __launch_bounds__(32) mma_misused(const __grid_constant__ Params) {
  float c[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x != 9) {
    ptx::mma<ptx::Mma::kM16N8K16Bfloat16>(c, a, b);
  } else if (kTwoShapes) {
    ptx::mma<ptx::Mma::kM16N8K16Float16>(c, a, b);
  }
}

// ------------------------------------------------------------------ wgmma
// Descriptors with the number exclusive-ored in.
template <bool kOfA>
__global__ void __launch_bounds__(128) wgmma_wrong_descriptor(const __grid_constant__ Params p) {
  const Operands operands = prepare();
  const auto change = static_cast<uint64_t>(p.number);
  float d[16];
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 32>(d, operands.a ^ (kOfA ? change : 0), operands.b ^ (kOfA ? 0 : change),
                              false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

// An MN-major operand B of 64 columns with the given descriptor fields.
template <Swizzle kSwizzle>
__global__ void __launch_bounds__(128) wgmma_wrong_mn_major(const __grid_constant__ Params p) {
  const Operands operands = prepare();
  const auto fields = static_cast<uint32_t>(p.number);
  const uint64_t b = mn_major_descriptor(ptx::shared_address(&dynamic_smem<MisuseStorage>()),
                                         kSwizzle, fields & 0xFFFFu, fields >> 16);
  float d[32];
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 64, false, true>(d, operands.a, b, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

enum class Difference { kDescriptor, kAccumulate, kType, kCommitGroup };

template <Difference kDifference>
__global__ void __launch_bounds__(128) wgmma_differs(const __grid_constant__ Params) {
  const Operands operands = prepare();
  const bool odd = threadIdx.x >= 96;  // warp 3
  float d[16] = {};
  ptx::wgmma_fence();
  if (kDifference == Difference::kType && odd) {
    ptx::wgmma_ss<float16, 32>(d, operands.a, operands.b, true);
  } else {
    const uint64_t step = kDifference == Difference::kDescriptor && odd ? 2 : 0;
    const bool accumulate = kDifference != Difference::kAccumulate || !odd;
    if (kDifference == Difference::kCommitGroup && odd) ptx::wgmma_commit();
    ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b + step, accumulate);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

__global__ void __launch_bounds__(128) wgmma_different_waits(const __grid_constant__ Params) {
  const Operands operands = prepare();
  float d[16];
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b, false);
  ptx::wgmma_commit();
  if (threadIdx.x % 32 == 9) {
    ptx::wgmma_wait<1>();
  } else {
    ptx::wgmma_wait<0>();
  }
}

// Warp 3 leaves the wgmma out and waits for something else, or exits.
template <bool kExits>
__global__ void __launch_bounds__(128) wgmma_part_of_a_warpgroup(const __grid_constant__ Params) {
  const Operands operands = prepare();
  float d[16];
  if (threadIdx.x < 96) {
    ptx::wgmma_fence();
    ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b, false);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
  }
  if (!kExits) __syncthreads();
}

__global__ void __launch_bounds__(128) wgmma_part_of_a_warp(const __grid_constant__ Params) {
  const Operands operands = prepare();
  float d[16];
  if (threadIdx.x == 9) return;
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

// Launched with 160 threads: the last warp is no warpgroup.
__global__ void __launch_bounds__(160) wgmma_short_warpgroup(const __grid_constant__ Params) {
  const Operands operands = prepare();
  float d[16];
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

// Two shapes on the same accumulators: with a wait, a fence, both, or neither between them.
template <bool kWaits, bool kFences>
__global__ void __launch_bounds__(128) wgmma_two_shapes(const __grid_constant__ Params) {
  const Operands operands = prepare();
  float d[16];
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b, false);
  ptx::wgmma_commit();
  if (kWaits) ptx::wgmma_wait<0>();
  if (kFences) ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 16>(reinterpret_cast<float (&)[8]>(d), operands.a, operands.b, true);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

__global__ void __launch_bounds__(128) wgmma_not_converged(const __grid_constant__ Params p) {
  const Operands operands = prepare();
  float d[16];
  work_alone(p);
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, 32>(d, operands.a, operands.b, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

template <auto kKernel, uint32_t kThreads>
Status launch_misuse(const LaunchArguments& arguments) {
  return launch_kernel("matrix_misuse", kKernel, Dim3{1, 1, 1}, Dim3{kThreads, 1, 1},
                       sizeof(MisuseStorage), nullptr, Params{arguments.number<int64_t>(0)});
}

#define RNC_MISUSE(name, threads, ...) \
  const KernelRegistration name##_registration{#name, launch_misuse<__VA_ARGS__, threads>};
RNC_MISUSE(ldmatrix_wrong_address, 32, ldmatrix_wrong_address)
RNC_MISUSE(stmatrix_wrong_address, 32, stmatrix_wrong_address)
RNC_MISUSE(ldmatrix_different_forms, 32, ldmatrix_different_forms)
RNC_MISUSE(ldmatrix_part_of_a_warp, 32, ldmatrix_part_of_a_warp)
RNC_MISUSE(ldmatrix_not_converged, 32, ldmatrix_not_converged)
RNC_MISUSE(stmatrix_race, 32, stmatrix_race)
RNC_MISUSE(mma_two_shapes, 32, mma_misused<true>)
RNC_MISUSE(mma_part_of_a_warp, 32, mma_misused<false>)
RNC_MISUSE(wgmma_wrong_descriptor_a, 128, wgmma_wrong_descriptor<true>)
RNC_MISUSE(wgmma_wrong_descriptor_b, 128, wgmma_wrong_descriptor<false>)
RNC_MISUSE(wgmma_mn_major_swizzled, 128, wgmma_wrong_mn_major<Swizzle::k64>)
RNC_MISUSE(wgmma_mn_major_unswizzled, 128, wgmma_wrong_mn_major<Swizzle::kNone>)
RNC_MISUSE(wgmma_different_descriptor, 128, wgmma_differs<Difference::kDescriptor>)
RNC_MISUSE(wgmma_different_scale, 128, wgmma_differs<Difference::kAccumulate>)
RNC_MISUSE(wgmma_different_type, 128, wgmma_differs<Difference::kType>)
RNC_MISUSE(wgmma_different_group, 128, wgmma_differs<Difference::kCommitGroup>)
RNC_MISUSE(wgmma_different_waits, 128, wgmma_different_waits)
RNC_MISUSE(wgmma_warp_left_out, 128, wgmma_part_of_a_warpgroup<false>)
RNC_MISUSE(wgmma_warp_exited, 128, wgmma_part_of_a_warpgroup<true>)
RNC_MISUSE(wgmma_part_of_a_warp, 128, wgmma_part_of_a_warp)
RNC_MISUSE(wgmma_short_warpgroup, 160, wgmma_short_warpgroup)
RNC_MISUSE(wgmma_two_shapes, 128, wgmma_two_shapes<true, true>)
RNC_MISUSE(wgmma_two_shapes_without_fence, 128, wgmma_two_shapes<true, false>)
RNC_MISUSE(wgmma_two_shapes_in_flight, 128, wgmma_two_shapes<false, true>)
RNC_MISUSE(wgmma_not_converged, 128, wgmma_not_converged)

}  // namespace
}  // namespace rnc
