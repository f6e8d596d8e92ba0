// D = A B^T by clusters of two blocks one above the other. Each loads its own rows of A and half of
// the B they share, multicast to both. The cluster also adds up the columns of its 128 rows, over
// distributed shared memory.
#pragma once

#include "ptx/cluster.cuh"
#include "slices.cuh"

namespace rnc::reference {

template <class ElementType>
struct GemmClusterTile {
  using Element = ElementType;
  static constexpr int kBlocks = 2;
  static constexpr int kRows = Warpgroup::kRows;  // of one block
  static constexpr int kColumns = 128;
  static constexpr int kColumnsLoaded = kColumns / kBlocks;  // by each block, for both
  static constexpr int kStages = 4;
  static constexpr int kThreads = Warpgroup::kThreads + 32;
  static_assert(kColumns == Warpgroup::kThreads, "one thread adds up each column");
};

struct GemmClusterParams {
  ptx::TensorMap a, b;  // boxes of one slice of kRows and kColumnsLoaded rows
  float* d;             // [rows, columns]
  float* column_sums;   // [clusters along the rows, column tiles, kColumns]
  int32_t rows, columns, slices;
};

template <class Tile>
struct GemmClusterStorage {
  KMajorSlice<Tile::kRows> a[Tile::kStages];
  KMajorSlice<Tile::kColumns> b[Tile::kStages];
  MbarrierRing<Tile::kStages> ring;
  float warp_sums[Warpgroup::kWarps][Tile::kColumns];
  float column_sums[Tile::kColumns];
};

// Leaves the sums of the tile's columns in shared.column_sums, in a fixed order: rows of a thread,
// lanes, warps. No lane leaves the others: a cluster barrier follows, which wants converged warps.
template <class Tile>
__device__ __forceinline__ void add_up_columns(const float (&accumulators)[Tile::kColumns / 2],
                                               GemmClusterStorage<Tile>& shared) {
  constexpr uint32_t kAllLanes = 0xFFFFFFFFu;
  constexpr int kGroups = 8;  // of 8 columns at a time, one for each group of four lanes to store
  const int thread = int(threadIdx.x);
  const int group = thread % 32 / 4;
  RNC_UNROLL
  for (int first = 0; first < Tile::kColumns / 8; first += kGroups) {
    Vec<float, 2> own = {};
    RNC_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      // Lanes 4 r + t hold rows r and r + 8 of columns 2t and 2t + 1.
      const float* pairs = &accumulators[(first + g) * 4];
      Vec<float, 2> sum = {{pairs[0] + pairs[2], pairs[1] + pairs[3]}};
      RNC_UNROLL
      for (int distance = 4; distance < 32; distance *= 2) {
        sum.v[0] += __shfl_xor_sync(kAllLanes, sum.v[0], distance);
        sum.v[1] += __shfl_xor_sync(kAllLanes, sum.v[1], distance);
      }
      own.v[0] = group == g ? sum.v[0] : own.v[0];
      own.v[1] = group == g ? sum.v[1] : own.v[1];
    }
    float* target = &shared.warp_sums[thread / 32][(first + group) * 8 + thread % 4 * 2];
    *reinterpret_cast<Vec<float, 2>*>(target) = own;
  }
  ptx::barrier_sync(1, Warpgroup::kThreads);
  float total = 0.0f;
  RNC_UNROLL
  for (int warp = 0; warp < Warpgroup::kWarps; ++warp) total += shared.warp_sums[warp][thread];
  shared.column_sums[thread] = total;
}

// grid: (row tiles, rounded up to whole clusters; column tiles)
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    gemm_cluster_kernel(const __grid_constant__ GemmClusterParams params) {
  using Element = typename Tile::Element;
  auto& shared = dynamic_smem<GemmClusterStorage<Tile>>();
  const int32_t first_row = int32_t(blockIdx.x) * Tile::kRows;
  const int32_t first_column = int32_t(blockIdx.y) * Tile::kColumns;
  const uint32_t rank = ptx::cluster_rank();
  const bool consumes = threadIdx.x < Warpgroup::kThreads;

  // Set up the ring, and wait until the other block's is set up: its copies arrive there.
  if (threadIdx.x == 0) shared.ring.initialise(Tile::kBlocks * Warpgroup::kWarps);
  __syncwarp();
  ptx::cluster_sync();

  if (!consumes) {
    // The last warp fills the ring: its A, and its half of B in both blocks.
    if (ptx::elect_one()) {
      constexpr uint16_t kBothBlocks = 3;
      const int32_t own_half = int32_t(rank) * Tile::kColumnsLoaded;
      RingPosition<Tile::kStages> position;
      for (int32_t slice = 0; slice < params.slices; ++slice) {
        auto& a = shared.a[position.stage];
        auto& b = shared.b[position.stage];
        auto& arrived = shared.ring.full[position.stage];
        const int32_t depth = slice * kSliceElements<Element>;
        shared.ring.acquire(position, sizeof a.bytes + sizeof b.bytes);
        ptx::tma_load(a.bytes, &params.a, arrived, {depth, first_row});
        ptx::tma_load_multicast(b.bytes + own_half * kSliceBytes, &params.b, arrived,
                                {depth, first_column + own_half}, kBothBlocks);
        position.advance();
      }
    }
    __syncwarp();
  } else {
    // The warpgroup multiplies, and releases each stage to both blocks.
    float accumulators[Tile::kColumns / 2];
    RingPosition<Tile::kStages> position;
    wgmma_mainloop(
        shared.ring, position, params.slices, accumulators,
        [&](int stage, bool accumulate) {
          RNC_UNROLL
          for (int step = 0; step < KMajorSlice<Tile::kRows>::kSteps; ++step) {
            ptx::wgmma_ss<Element, Tile::kColumns>(accumulators, shared.a[stage].descriptor(step),
                                                   shared.b[stage].descriptor(step),
                                                   accumulate || step != 0);
          }
        },
        [&](int stage, bool condition) {
          shared.ring.release_in_cluster_if(stage, condition, Tile::kBlocks);
        });
    // Store the tile; add up its columns.
    store_floats(accumulators, params.d, params.rows, params.columns, first_row, first_column);
    add_up_columns<Tile>(accumulators, shared);
  }

  // The first block adds the other one's sums to its own. Nobody leaves before: shared memory ends
  // with its block.
  ptx::cluster_sync();
  if (rank == 0 && consumes) {
    float sum = shared.column_sums[threadIdx.x];
    const uint32_t own = ptx::shared_address(&shared.column_sums[threadIdx.x]);
    RNC_UNROLL
    for (uint32_t other = 1; other < Tile::kBlocks; ++other) {
      sum += ptx::load_shared_cluster<float>(ptx::map_shared_rank(own, other));
    }
    const int64_t row = blockIdx.x / Tile::kBlocks * int64_t(gridDim.y) + blockIdx.y;
    ptx::store_global(params.column_sums + row * Tile::kColumns + threadIdx.x, sum);
  }
  ptx::cluster_sync();
}

}  // namespace rnc::reference
