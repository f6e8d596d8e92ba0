// A pipeline of TMA loads and stores with one planted fault each, beside a twin without it.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "launch/tensor_map.h"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kMissingInitFence,
  kMissingFullWait,
  kMissingEmptyWait,
  kMissingExpect,
  kExpectTooFew,
  kExpectTooMany,
  kMissingReadWait,
  kReadWaitForTooFew,
  kMissingProxyFence,
  kMissingWarpBarrier,
  kMissingCommit,
  kMissingLastWait,
};

constexpr int kRows = 8, kColumns = 32;
constexpr uint32_t kStages = 2;
constexpr uint32_t kWarp = 32;

using Tile = float[kRows][kColumns];

struct PipelineParams {
  ptx::TensorMap x;
  ptx::TensorMap y;
  uint32_t tiles;  // of kRows rows each
};

struct PipelineStorage {
  alignas(128) Tile in[kStages];
  alignas(128) Tile out;
  ptx::Mbarrier full[kStages];
  ptx::Mbarrier empty[kStages];
};

// The first lane of warp 0 loads the tiles of x.
template <Fault kFault>
__device__ void produce(PipelineStorage& shared, const PipelineParams& p) {
  for (uint32_t tile = 0; tile < p.tiles; ++tile) {
    const uint32_t stage = tile % kStages, use = tile / kStages;
    if (kFault != Fault::kMissingEmptyWait) {
      ptx::mbarrier_wait(shared.empty[stage], (use & 1) ^ 1);
    }
    if (kFault == Fault::kMissingExpect) {
      ptx::mbarrier_arrive(shared.full[stage]);
    } else {
      constexpr uint32_t kBytes = kFault == Fault::kExpectTooMany  ? sizeof(Tile) + 16
                                  : kFault == Fault::kExpectTooFew ? sizeof(Tile) - 16
                                                                   : sizeof(Tile);
      ptx::mbarrier_arrive_expect_tx(shared.full[stage], kBytes);
    }
    ptx::tma_load(shared.in[stage], &p.x, shared.full[stage],
                  {0, static_cast<int32_t>(tile) * kRows});
  }
}

// Warp 1 mirrors their rows, negates them, and stores them to y.
template <Fault kFault>
__device__ void consume(PipelineStorage& shared, const PipelineParams& p) {
  const uint32_t lane = threadIdx.x % kWarp;
  for (uint32_t tile = 0; tile < p.tiles; ++tile) {
    const uint32_t stage = tile % kStages, use = tile / kStages;
    // Take the tile into registers and give its stage back.
    if (kFault != Fault::kMissingFullWait) ptx::mbarrier_wait(shared.full[stage], use & 1);
    float values[kRows];
    for (int row = 0; row < kRows; ++row) {
      values[row] = shared.in[stage][row][kColumns - 1 - lane];
    }
    ptx::mbarrier_arrive(shared.empty[stage]);
    // Fill the output tile when the previous store has read it.
    if (lane == 0) {
      if (kFault == Fault::kReadWaitForTooFew) {
        ptx::tma_store_wait_read<1>();
      } else if (kFault != Fault::kMissingReadWait) {
        ptx::tma_store_wait_read<0>();
      }
    }
    __syncwarp();
    for (int row = 0; row < kRows; ++row) shared.out[row][lane] = -values[row];
    // Store it.
    if (kFault != Fault::kMissingProxyFence) ptx::fence_proxy_async();
    if (kFault != Fault::kMissingWarpBarrier) __syncwarp();
    if (lane == 0) {
      ptx::tma_store(&p.y, shared.out, {0, static_cast<int32_t>(tile) * kRows});
      if (kFault != Fault::kMissingCommit) ptx::tma_store_commit();
    }
  }
  if (lane == 0 && kFault != Fault::kMissingLastWait) ptx::tma_store_wait<0>();
}

template <Fault kFault>
__global__ void __launch_bounds__(2 * kWarp)
    tma_pipeline(const __grid_constant__ PipelineParams p) {
  PipelineStorage& shared = dynamic_smem<PipelineStorage>();

  // Initialise the barriers.
  if (threadIdx.x == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(shared.full[stage], 1, "full");
      ptx::mbarrier_init(shared.empty[stage], kWarp, "empty");
    }
    if (kFault != Fault::kMissingInitFence) ptx::fence_mbarrier_init();
  }
  __syncthreads();

  // Load with warp 0, compute and store with warp 1.
  if (threadIdx.x == 0) {
    produce<kFault>(shared, p);
  } else if (threadIdx.x >= kWarp) {
    consume<kFault>(shared, p);
  }
}

// Buffers: x, y, of kColumns columns. Numbers: tiles.
template <Fault kFault>
Status launch_pipeline(const LaunchArguments& arguments) {
  PipelineParams params{};
  params.tiles = arguments.number<uint32_t>(0);
  TiledTensorMap description{.base = arguments.buffers[0],
                             .element = kTensorElement<float>,
                             .rank = 2,
                             .dims = {kColumns, uint64_t{params.tiles} * kRows},
                             .strides_bytes = {kColumns * sizeof(float)},
                             .box = {kColumns, kRows}};
  Status status = make_tiled_tensor_map(&params.x, description);
  if (!status.ok()) return status;
  description.base = arguments.buffers[1];
  status = make_tiled_tensor_map(&params.y, description);
  if (!status.ok()) return status;
  return launch_kernel("tma_pipeline", tma_pipeline<kFault>, Dim3{1, 1, 1}, Dim3{2 * kWarp, 1, 1},
                       sizeof(PipelineStorage), nullptr, params);
}

const KernelRegistration pipelines[] = {
    {"tma_pipeline", launch_pipeline<Fault::kNone>},
    {"tma_pipeline_missing_init_fence", launch_pipeline<Fault::kMissingInitFence>},
    {"tma_pipeline_missing_full_wait", launch_pipeline<Fault::kMissingFullWait>},
    {"tma_pipeline_missing_empty_wait", launch_pipeline<Fault::kMissingEmptyWait>},
    {"tma_pipeline_missing_expect", launch_pipeline<Fault::kMissingExpect>},
    {"tma_pipeline_expect_too_few", launch_pipeline<Fault::kExpectTooFew>},
    {"tma_pipeline_expect_too_many", launch_pipeline<Fault::kExpectTooMany>},
    {"tma_pipeline_missing_read_wait", launch_pipeline<Fault::kMissingReadWait>},
    {"tma_pipeline_read_wait_for_too_few", launch_pipeline<Fault::kReadWaitForTooFew>},
    {"tma_pipeline_missing_proxy_fence", launch_pipeline<Fault::kMissingProxyFence>},
    {"tma_pipeline_missing_warp_barrier", launch_pipeline<Fault::kMissingWarpBarrier>},
    {"tma_pipeline_missing_commit", launch_pipeline<Fault::kMissingCommit>},
    {"tma_pipeline_missing_last_wait", launch_pipeline<Fault::kMissingLastWait>},
};

// ------------------------------------------------------------------ a thread that reads what it
// has just stored

struct ReadBackParams {
  ptx::TensorMap x;
  const float* stored;
  float* seen;
};

struct ReadBackStorage {
  alignas(128) float box[kColumns];
};

template <bool kOnlyWaitForRead>
__global__ void __launch_bounds__(1) read_back(const __grid_constant__ ReadBackParams p) {
  ReadBackStorage& shared = dynamic_smem<ReadBackStorage>();
  for (int i = 0; i < kColumns; ++i) shared.box[i] = 1.0f;
  ptx::fence_proxy_async();
  ptx::tma_store(&p.x, shared.box, {0});
  ptx::tma_store_commit();
  if (kOnlyWaitForRead) {
    ptx::tma_store_wait_read<0>();
  } else {
    ptx::tma_store_wait<0>();
  }
  for (int i = 0; i < kColumns; ++i) ptx::store_global(p.seen + i, ptx::load_global(p.stored + i));
}

// Buffers: x, what the thread saw of it.
template <bool kOnlyWaitForRead>
Status launch_read_back(const LaunchArguments& arguments) {
  ReadBackParams params{{}, arguments.buffer<const float>(0), arguments.buffer<float>(1)};
  const Status status = make_tiled_tensor_map(&params.x, {.base = arguments.buffers[0],
                                                          .element = kTensorElement<float>,
                                                          .rank = 1,
                                                          .dims = {kColumns},
                                                          .strides_bytes = {},
                                                          .box = {kColumns}});
  if (!status.ok()) return status;
  return launch_kernel("read_back", read_back<kOnlyWaitForRead>, Dim3{1, 1, 1}, Dim3{1, 1, 1},
                       sizeof(ReadBackStorage), nullptr, params);
}

const KernelRegistration readers[] = {
    {"read_back", launch_read_back<false>},
    {"read_back_after_read_wait", launch_read_back<true>},
};

}  // namespace
}  // namespace rnc
