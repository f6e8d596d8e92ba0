// Small kernels with one planted fault each, beside twins without it. The tests expect every fault
// to be reported and no twin.
#include <cstdint>
#include <iterator>

#include "planted_faults.h"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kMissingBarrier,
  kMissingWarpBarrier,
  kWrongSharedIndex,
  kSharedOutOfBounds,
  kStoreOutOfBounds,
  kStoreBeforeStart,
  kLoadOutOfBounds,
  kUninitialisedShared,
  kBlocksConflict,
  kSkippedBarrier,
  kDivergentCollective,
  kDifferentMasks,
  kAbsentLane,
  kMisaligned,
};

constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// ------------------------------------------------------------------ block reduction: warp
// shuffles, then one value per warp in shared
struct ReductionStorage {
  float per_warp[32];
};

template <Fault kFault>
__global__ void __launch_bounds__(256) block_reduction(const __grid_constant__ Params p) {
  ReductionStorage& shared = dynamic_smem<ReductionStorage>();
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  float sum = 0.0f;
  for (int32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x) {
    sum += ptx::load_global(p.x + i + (kFault == Fault::kLoadOutOfBounds ? 1 : 0));
  }
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(kAllLanes, sum, delta);
  if (lane == 0 && !(kFault == Fault::kUninitialisedShared && warp == 2))
    shared.per_warp[warp] = sum;
  if (kFault != Fault::kMissingBarrier) __syncthreads();
  if (warp != 0) return;  // the rest of the block has exited when warp 0 goes on
  sum = lane < warps ? shared.per_warp[lane] : 0.0f;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kAllLanes, sum, delta);
  const uint32_t index = kFault == Fault::kBlocksConflict ? 0 : blockIdx.x;
  if (lane == 0) ptx::store_global(p.y + index, sum);
}

// ------------------------------------------------------------------ transpose of an n x n matrix
// through 32 x 32 tiles
template <int kPitch>
struct TransposeStorage {
  float tile[32][kPitch];
};

template <Fault kFault, int kPitch = 33>
__global__ void __launch_bounds__(256) tiled_transpose(const __grid_constant__ Params p) {
  TransposeStorage<kPitch>& shared = dynamic_smem<TransposeStorage<kPitch>>();
  const uint32_t column = blockIdx.x * 32 + threadIdx.x, row0 = blockIdx.y * 32;
  for (uint32_t row = threadIdx.y; row < 32; row += blockDim.y) {
    const uint32_t shift = kFault == Fault::kSharedOutOfBounds && row == 31 ? 1 : 0;
    const uint32_t target = kFault == Fault::kWrongSharedIndex ? row / 2 : row + shift;
    shared.tile[target][threadIdx.x] = ptx::load_global(p.x + (row0 + row) * p.n + column);
  }
  if (kFault != Fault::kMissingBarrier) __syncthreads();
  const uint32_t new_column = row0 + threadIdx.x, new_row0 = blockIdx.x * 32;
  for (uint32_t row = threadIdx.y; row < 32; row += blockDim.y) {
    float* target = p.y + (new_row0 + row) * p.n + new_column;
    if (kFault == Fault::kStoreOutOfBounds) target += 1;
    if (kFault == Fault::kStoreBeforeStart) target -= 1;
    ptx::store_global(target, shared.tile[threadIdx.x][row]);
  }
}

// ------------------------------------------------------------------ histogram of x, 64 bins:
// integer atomics in shared and global memory
struct HistogramStorage {
  int32_t bins[64];
};

template <Fault kFault>
__global__ void __launch_bounds__(128) histogram(const __grid_constant__ Params p) {
  HistogramStorage& shared = dynamic_smem<HistogramStorage>();
  if (threadIdx.x < 64) shared.bins[threadIdx.x] = 0;
  if (kFault != Fault::kMissingBarrier) __syncthreads();
  for (int32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x) {
    atomicAdd(&shared.bins[static_cast<int32_t>(ptx::load_global_nc(p.x + i)) % 64], 1);
  }
  __syncthreads();
  if (threadIdx.x < 64) atomicAdd(p.counts + threadIdx.x, shared.bins[threadIdx.x]);
}

// ------------------------------------------------------------------ exchange inside a warp through
// shared memory
struct ExchangeStorage {
  float values[64];
};

template <Fault kFault>
__global__ void __launch_bounds__(64) warp_exchange(const __grid_constant__ Params p) {
  ExchangeStorage& shared = dynamic_smem<ExchangeStorage>();
  shared.values[threadIdx.x] = ptx::load_global(p.x + threadIdx.x);
  if (kFault != Fault::kMissingWarpBarrier) __syncwarp();
  ptx::store_global(p.y + threadIdx.x, shared.values[threadIdx.x ^ 1]);
}

// ------------------------------------------------------------------ elements of one and two bytes
// in shared and global memory
struct NarrowStorage {
  uint8_t bytes[64];
  uint16_t halves[64];
};

__global__ void __launch_bounds__(64) narrow_elements(const __grid_constant__ Params p) {
  NarrowStorage& shared = dynamic_smem<NarrowStorage>();
  const auto* x = reinterpret_cast<const uint8_t*>(p.x);
  auto* y = reinterpret_cast<uint8_t*>(p.y);
  const uint32_t base = blockIdx.x * 63;  // blocks share no byte, but words
  shared.bytes[threadIdx.x] = ptx::load_global(x + base + threadIdx.x);
  shared.halves[threadIdx.x] = static_cast<uint16_t>(threadIdx.x);
  __syncthreads();
  const uint32_t mirrored = shared.halves[63 - threadIdx.x];
  if (threadIdx.x < 63) ptx::store_global(y + base + threadIdx.x, shared.bytes[mirrored]);
}

// ------------------------------------------------------------------ two launches that talk through
// a workspace (y, then counts)
__global__ void __launch_bounds__(64) write_workspace(const __grid_constant__ Params p) {
  const int32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) ptx::store_global(p.y + i, ptx::load_global(p.x + i));
}

__global__ void __launch_bounds__(64) read_workspace(const __grid_constant__ Params p) {
  const int32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) ptx::store_global(p.counts + i, static_cast<int32_t>(ptx::load_global(p.y + i)));
}

// ------------------------------------------------------------------ collectives
template <Fault kFault>
__global__ void __launch_bounds__(64) collectives(const __grid_constant__ Params p) {
  const uint32_t lane = threadIdx.x % 32;
  float value = ptx::load_global(p.x + threadIdx.x);
  if (kFault == Fault::kSkippedBarrier) {
    if (threadIdx.x != 5) __syncthreads();
    value +=
        __shfl_xor_sync(kAllLanes, value, 1);  // thread 5 waits here for the others of its warp
  } else if (kFault == Fault::kDivergentCollective) {
    value += lane < 16 ? __shfl_xor_sync(kAllLanes, value, 1)
                       : static_cast<float>(__ballot_sync(kAllLanes, value > 0.0f));
  } else if (kFault == Fault::kDifferentMasks) {
    value += __shfl_xor_sync(lane == 3 ? 0x0000FFFFu : kAllLanes, value, 1);
  } else if (kFault == Fault::kAbsentLane) {
    if (lane >= 8) return;
    value += __shfl_sync(kAllLanes, value, 12);
  } else {
    // Disjoint groups of lanes may be in different collectives.
    const uint32_t mask = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    if (lane < 16) {
      value += __shfl_xor_sync(mask, value, 3, 16);
    } else {
      value += static_cast<float>(__popc(__ballot_sync(mask, value > 0.0f)));
    }
    value += __any_sync(kAllLanes, lane == 7) ? 1.0f : 0.0f;
    value += __all_sync(kAllLanes, lane != 7) ? 2.0f : 0.0f;
  }
  ptx::store_global(p.y + threadIdx.x, value);
}

// Every mode of shuffle with this operand and width: y[mode * 32 + lane].
template <int kWidth>
__global__ void __launch_bounds__(32) all_shuffles(const __grid_constant__ Params p) {
  const auto lane = static_cast<float>(threadIdx.x);
  const float results[4] = {__shfl_sync(kAllLanes, lane, p.operand, kWidth),
                            __shfl_up_sync(kAllLanes, lane, p.operand, kWidth),
                            __shfl_down_sync(kAllLanes, lane, p.operand, kWidth),
                            __shfl_xor_sync(kAllLanes, lane, p.operand, kWidth)};
  for (int mode = 0; mode < 4; ++mode) {
    ptx::store_global(p.y + mode * 32 + threadIdx.x, results[mode]);
  }
}

// counts[i] = result of one atomic, all 64 threads on the same word; counts[i + 8] = the old value
// thread 0 saw
__global__ void __launch_bounds__(64) all_atomics(const __grid_constant__ Params p) {
  const auto t = static_cast<int32_t>(threadIdx.x);
  atomicAdd(p.counts + 0, t);
  atomicMin(p.counts + 1, -t);
  atomicMax(p.counts + 2, t - 100);
  atomicAnd(p.counts + 3, ~(1 << (t % 8)));
  atomicOr(p.counts + 4, 1 << (t % 8));
  atomicXor(p.counts + 5, t);
  atomicCAS(p.counts + 6, t, t + 1);
  atomicExch(p.counts + 7, t);
  auto* wide = reinterpret_cast<unsigned long long*>(p.counts + 8);
  atomicAdd(wide, 1ull << 33);
}

// ------------------------------------------------------------------ vector copy: y = x, 16 bytes
// per thread
struct alignas(16) Vector {
  float values[4];
};

template <Fault kFault>
__global__ void __launch_bounds__(64) vector_copy(const __grid_constant__ Params p) {
  const int32_t i = (blockIdx.x * blockDim.x + threadIdx.x) * 4 + p.operand;
  if (i + 4 > p.n) return;
  const float* source = p.x + i + (kFault == Fault::kMisaligned ? 1 : 0);
  const auto vector = ptx::load_global_nc(reinterpret_cast<const Vector*>(source));
  ptx::store_global(reinterpret_cast<Vector*>(p.y + i), vector);
}

// ------------------------------------------------------------------ local memory
__device__ float descend(float value, int32_t depth) {
  if (depth == 0) return value;
  volatile float frame[64];
  for (int i = 0; i < 64; ++i) frame[i] = value;
  return descend(frame[depth % 64] + 1.0f, depth - 1) + frame[0];
}

__global__ void __launch_bounds__(32) recursion(const __grid_constant__ Params p) {
  ptx::store_global(p.y + threadIdx.x, descend(ptx::load_global(p.x + threadIdx.x), p.operand));
}

constexpr Entry kEntries[] = {
    {"reduction", block_reduction<Fault::kNone>, sizeof(ReductionStorage)},
    {"reduction_missing_barrier", block_reduction<Fault::kMissingBarrier>,
     sizeof(ReductionStorage)},
    {"reduction_load_out_of_bounds", block_reduction<Fault::kLoadOutOfBounds>,
     sizeof(ReductionStorage)},
    {"reduction_uninitialised_shared", block_reduction<Fault::kUninitialisedShared>,
     sizeof(ReductionStorage)},
    {"reduction_blocks_conflict", block_reduction<Fault::kBlocksConflict>,
     sizeof(ReductionStorage)},
    {"reduction_without_shared_memory", block_reduction<Fault::kNone>, 0},
    {"transpose", tiled_transpose<Fault::kNone>, sizeof(TransposeStorage<33>)},
    {"transpose_bank_conflicts", tiled_transpose<Fault::kNone, 32>, sizeof(TransposeStorage<32>)},
    {"transpose_missing_barrier", tiled_transpose<Fault::kMissingBarrier>,
     sizeof(TransposeStorage<33>)},
    {"transpose_wrong_shared_index", tiled_transpose<Fault::kWrongSharedIndex>,
     sizeof(TransposeStorage<33>)},
    {"transpose_shared_out_of_bounds", tiled_transpose<Fault::kSharedOutOfBounds>,
     sizeof(TransposeStorage<33>)},
    {"transpose_store_out_of_bounds", tiled_transpose<Fault::kStoreOutOfBounds>,
     sizeof(TransposeStorage<33>)},
    {"transpose_store_before_start", tiled_transpose<Fault::kStoreBeforeStart>,
     sizeof(TransposeStorage<33>)},
    {"histogram", histogram<Fault::kNone>, sizeof(HistogramStorage)},
    {"histogram_missing_barrier", histogram<Fault::kMissingBarrier>, sizeof(HistogramStorage)},
    {"exchange", warp_exchange<Fault::kNone>, sizeof(ExchangeStorage)},
    {"exchange_missing_warp_barrier", warp_exchange<Fault::kMissingWarpBarrier>,
     sizeof(ExchangeStorage)},
    {"narrow_elements", narrow_elements, sizeof(NarrowStorage)},
    {"write_workspace", write_workspace, 0},
    {"read_workspace", read_workspace, 0},
    {"collectives", collectives<Fault::kNone>, 0},
    {"collectives_skipped_barrier", collectives<Fault::kSkippedBarrier>, 0},
    {"collectives_divergent", collectives<Fault::kDivergentCollective>, 0},
    {"collectives_different_masks", collectives<Fault::kDifferentMasks>, 0},
    {"collectives_absent_lane", collectives<Fault::kAbsentLane>, 0},
    {"shuffles_width_32", all_shuffles<32>, 0},
    {"shuffles_width_8", all_shuffles<8>, 0},
    {"atomics", all_atomics, 0},
    {"vector_copy", vector_copy<Fault::kNone>, 0},
    {"vector_copy_misaligned", vector_copy<Fault::kMisaligned>, 0},
    {"recursion", recursion, 0},
};

}  // namespace

Table kernels_with_memory_faults() { return {std::begin(kEntries), std::end(kEntries)}; }

}  // namespace rnc
