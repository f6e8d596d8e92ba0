// Every block of a cluster loads a part of a tile and sends it to all: with planted faults, beside
// a twin without.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "launch/tensor_map.h"
#include "ptx/cluster.cuh"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"

namespace rnc {
namespace {

enum class Fault { kNone, kMissingFirstClusterSync, kBlockExited, kMissingExpect };

constexpr int kColumns = 32, kPartRows = 4, kMaxBlocks = 8;
constexpr uint32_t kPartBytes = kPartRows * kColumns * sizeof(float);
constexpr uint32_t kThreads = 32;

struct MulticastParams {
  ptx::TensorMap x;
  float* y;
  uint32_t rounds;
};

struct MulticastStorage {
  alignas(128) float tile[kMaxBlocks * kPartRows][kColumns];
  ptx::Mbarrier full;
};

template <Fault kFault>
__global__ void __launch_bounds__(kThreads)
    multicast_kernel(const __grid_constant__ MulticastParams p) {
  MulticastStorage& shared = dynamic_smem<MulticastStorage>();
  const uint32_t rank = ptx::cluster_rank(), blocks = ptx::cluster_size();

  // Initialise the barrier where every block can see it.
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(shared.full, 1, "full");
    ptx::fence_mbarrier_init();
  }
  __syncwarp();
  if (kFault != Fault::kMissingFirstClusterSync) ptx::cluster_sync();
  if (kFault == Fault::kBlockExited && rank == 1) return;

  const uint32_t rows = blocks * kPartRows, tile_values = rows * kColumns;
  for (uint32_t round = 0; round < p.rounds; ++round) {
    const uint32_t tile = blockIdx.x / blocks * p.rounds + round;
    // Load a part of the tile into all blocks.
    if (threadIdx.x == 0) {
      if (kFault != Fault::kMissingExpect || rank != 1) {
        ptx::mbarrier_arrive_expect_tx(shared.full, blocks * kPartBytes);
      } else {
        ptx::mbarrier_arrive(shared.full);
      }
      ptx::tma_load_multicast(shared.tile[rank * kPartRows], &p.x, shared.full,
                              {0, static_cast<int32_t>(tile * rows + rank * kPartRows)},
                              static_cast<uint16_t>((1u << blocks) - 1));
    }
    __syncwarp();
    ptx::mbarrier_wait(shared.full, round & 1);
    // Write the whole tile, each block to its own copy.
    float* y = p.y + (rank * (gridDim.x / blocks) * p.rounds + tile) * tile_values;
    for (uint32_t row = 0; row < rows; ++row) {
      ptx::store_global(y + row * kColumns + threadIdx.x, shared.tile[row][threadIdx.x]);
    }
    // Keep the tile until every block has read it.
    ptx::cluster_sync();
  }
}

// Buffers: x, y. Numbers: blocks of a cluster, clusters, rounds.
template <Fault kFault>
Status launch_multicast(const LaunchArguments& arguments) {
  const auto blocks = arguments.number<uint32_t>(0), clusters = arguments.number<uint32_t>(1);
  MulticastParams params{{}, arguments.buffer<float>(1), arguments.number<uint32_t>(2)};
  const uint64_t rows = uint64_t{clusters} * params.rounds * blocks * kPartRows;
  const Status status =
      make_tiled_tensor_map(&params.x, {.base = arguments.buffers[0],
                                        .element = kTensorElement<float>,
                                        .rank = 2,
                                        .dims = {kColumns, rows},
                                        .strides_bytes = {kColumns * sizeof(float)},
                                        .box = {kColumns, kPartRows}});
  if (!status.ok()) return status;
  return launch_kernel("multicast", multicast_kernel<kFault>, Dim3{clusters * blocks, 1, 1},
                       Dim3{kThreads, 1, 1}, sizeof(MulticastStorage), nullptr, params,
                       Dim3{blocks, 1, 1});
}

const KernelRegistration multicasts[] = {
    {"multicast", launch_multicast<Fault::kNone>},
    {"multicast_missing_first_cluster_sync", launch_multicast<Fault::kMissingFirstClusterSync>},
    {"multicast_block_exited", launch_multicast<Fault::kBlockExited>},
    {"multicast_missing_expect", launch_multicast<Fault::kMissingExpect>},
};

}  // namespace
}  // namespace rnc
