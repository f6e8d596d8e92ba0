// A bottleneck's expand and the reduce of the block behind it at inference, on Hopper: 64 columns
// of the expand's output at a time are finished in shared memory, stored from there by TMA, and
// multiplied by the reduce's filters where they lie, so that nobody reads them back.
#pragma once

#include "kernels/bottleneck/bottleneck_params.h"
#include "kernels/bottleneck/column_affine.cuh"
#include "kernels/conv/sm90/block_tile.cuh"
#include "kernels/conv/sm90/persistent_gemm.cuh"
#include "kernels/conv/sm90/tma_matrix.cuh"
#include "kernels/conv/sm90/tma_operands.cuh"
#include "ptx/grid_dependency.cuh"
#include "tile/wgmma_mainloop.cuh"

namespace rnc {

// x [rows, C], y [rows, K], z [rows, kReduced].
template <class T, int kReduced>
struct ExpandReduce {
  using Tile = Sm90Tile<128, 64, 1, 2>;
  using Expanded = Sm90BlockTile<Tile>;
  using Reduced = Sm90BlockTile<Sm90Tile<Tile::kRows, kReduced, 1, 2>>;
  static constexpr int kRows = Tile::kRows;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kClusterBlocks = Tile::kClusterBlocks;

  // A slice of x, 64 channels deep; all of a tile's stay until its last column.
  using Pixels = KMajorSlice<kRows>;
  // A panel for each warpgroup: the shortcut comes in, y leaves, later z.
  struct Panels {
    TilePanel of[Tile::kWarpgroups];
  };
  using ExpandFilters = TmaFilters<T, Tile::kColumns, true, kClusterBlocks>;
  using ReduceFilters = TmaFilters<T, kReduced, true, kClusterBlocks>;

  static constexpr int kPixelStages = BottleneckExpandReduceParams::kMostChannels / kBoxChannels<T>;
  static constexpr int kPanelStages = 4, kExpandStages = 4;
  static constexpr int kReduceStages = 64 * 1024 / ReduceFilters::Slice::kBytes;

  struct Params {
    TmaMatrix<T, kRows> x, residual;
    TmaMatrix<T, Warpgroup::kRows> y, z;
    ExpandFilters expand;
    ReduceFilters reduce;
    ColumnAffine<float> norm, next_norm;
    int32_t C, K;
    int64_t tiles;  // of all blocks of a cluster

    const char* error() const {
      const char* const errors[] = {x.error, residual.error, y.error,
                                    z.error, expand.error,   reduce.error};
      for (const char* error : errors) {
        if (error) return error;
      }
      return nullptr;
    }
  };

  struct Storage {
    Pixels pixels[kPixelStages];
    Panels panels[kPanelStages];
    typename ExpandFilters::Slice expand[kExpandStages];
    typename ReduceFilters::Slice reduce[kReduceStages];
    MbarrierRing<kPixelStages> pixel_ring;
    MbarrierRing<kPanelStages> panel_ring;
    MbarrierRing<kExpandStages> expand_ring;
    MbarrierRing<kReduceStages> reduce_ring;
  };
  struct Position {
    RingPosition<kPixelStages> pixels;
    RingPosition<kPanelStages> panel;
    RingPosition<kExpandStages> expand;
    RingPosition<kReduceStages> reduce;
  };

  static __device__ __forceinline__ void set_up(Storage& shared) {
    if (threadIdx.x != 0) return;
    constexpr int kWarps = Tile::kConsumers / 32;
    shared.pixel_ring.initialise(kWarps);
    shared.panel_ring.initialise(kWarps);
    shared.expand_ring.initialise(kClusterBlocks * kWarps);
    shared.reduce_ring.initialise(kClusterBlocks * kWarps);
  }

  // The producing thread: fills the rings with what the tile at `row` needs, in that order.
  static __device__ __forceinline__ void load(const Params& params, int32_t row, Storage& shared,
                                              Position& at) {
    for (int32_t channel = 0; channel < params.C; channel += kBoxChannels<T>) {
      shared.pixel_ring.fill(shared.pixels, at.pixels, sizeof(Pixels),
                             [&](Pixels& slice, ptx::Mbarrier& arrived) {
                               params.x.load(slice.bytes, arrived, row, channel);
                             });
    }
    for (int32_t column = 0; column < params.K; column += kBoxChannels<T>) {
      for (int32_t channel = 0; channel < params.C; channel += kBoxChannels<T>) {
        shared.expand_ring.fill(shared.expand, at.expand, sizeof *shared.expand,
                                [&](auto& slice, ptx::Mbarrier& arrived) {
                                  params.expand.load(slice, arrived, {0, 0, channel}, 0, column);
                                });
      }
      shared.panel_ring.fill(shared.panels, at.panel, sizeof(Panels),
                             [&](Panels& panels, ptx::Mbarrier& arrived) {
                               params.residual.load(&panels, arrived, row, column);
                             });
      shared.reduce_ring.fill(shared.reduce, at.reduce, sizeof *shared.reduce,
                              [&](auto& slice, ptx::Mbarrier& arrived) {
                                params.reduce.load(slice, arrived, {0, 0, column}, 0, 0);
                              });
    }
    // Panels that nothing is loaded into, for z.
    for (int32_t column = 0; column < kReduced; column += TilePanel::kColumns) {
      shared.panel_ring.fill(shared.panels, at.panel, 0, [](Panels&, ptx::Mbarrier&) {});
    }
  }

  // The warpgroups: the tile at `row`.
  static __device__ __forceinline__ void run(const Params& params, int32_t row, Storage& shared,
                                             Position& at) {
    const int32_t own_row = row + Expanded::warpgroup_row();
    const int slices = params.C / kBoxChannels<T>;
    Expanded expanded;
    Reduced reduced;
    expanded.clear();
    reduced.clear();
    const auto release_expand = [&](int stage, bool condition) {
      shared.expand_ring.release_in_cluster_if(stage, condition, kClusterBlocks);
    };

    // Wait for x.
    const int first_pixels = at.pixels.stage;
    for (int slice = 0; slice < slices; ++slice) {
      shared.pixel_ring.wait(at.pixels);
      at.pixels.advance();
    }

    int panel_stage = 0, reduce_stage = 0;  // what the reduce's product under way reads
    const auto release_reduce = [&](bool condition) {
      release_panel(shared, panel_stage, condition);
      shared.reduce_ring.release_in_cluster_if(reduce_stage, condition, kClusterBlocks);
    };
    for (int32_t column = 0; column < params.K; column += kBoxChannels<T>) {
      // Expand; the product before is complete then, too.
      wgmma_mainloop(
          shared.expand_ring, at.expand, slices, expanded.accumulators,
          [&](int stage, int slice) {
            const Pixels& pixels = shared.pixels[(first_pixels + slice) % kPixelStages];
            RNC_UNROLL
            for (int step = 0; step < Pixels::kSteps; ++step) {
              ptx::wgmma_ss<T, Tile::kColumns>(
                  expanded.accumulators, pixels.descriptor(step, Expanded::warpgroup_row()),
                  shared.expand[stage].descriptor(step), slice > 0 || step > 0);
            }
          },
          release_expand);
      release_reduce(column > 0);
      // Give x back behind its last product.
      for (int slice = 0; slice < slices; ++slice) {
        shared.pixel_ring.release_if((first_pixels + slice) % kPixelStages,
                                     column + kBoxChannels<T> >= params.K);
      }

      // Finish y over the shortcut.
      shared.panel_ring.wait(at.panel);
      TilePanel& panel = own_panel(shared, at.panel.stage);
      normalise(expanded.accumulators, params.norm, column);
      add_panels<T>(expanded.accumulators, &panel);
      activate(expanded.accumulators);
      store_to_panels<T>(expanded.accumulators, &panel);
      store(params.y, panel, own_row, column);

      // Reduce it.
      shared.reduce_ring.wait(at.reduce);
      ptx::wgmma_fence();
      RNC_UNROLL
      for (int step = 0; step < TilePanel::kSteps; ++step) {
        ptx::wgmma_ss<T, kReduced>(reduced.accumulators, panel.descriptor(step),
                                   shared.reduce[at.reduce.stage].descriptor(step), true);
      }
      ptx::wgmma_commit();
      panel_stage = at.panel.stage;
      reduce_stage = at.reduce.stage;
      at.panel.advance();
      at.reduce.advance();
    }

    // Finish z.
    ptx::wgmma_wait<0>();
    ptx::keep_registers(reduced.accumulators);
    release_reduce(true);
    constexpr int kStaged = Expanded::kAccumulators;
    RNC_UNROLL
    for (int part = 0; part < Reduced::kAccumulators / kStaged; ++part) {
      const int32_t column = part * TilePanel::kColumns;
      float z[kStaged];
      RNC_UNROLL
      for (int i = 0; i < kStaged; ++i) z[i] = reduced.accumulators[part * kStaged + i];
      normalise(z, params.next_norm, column);
      activate(z);
      shared.panel_ring.wait(at.panel);
      TilePanel& panel = own_panel(shared, at.panel.stage);
      store_to_panels<T>(z, &panel);
      store(params.z, panel, own_row, column);
      release_panel(shared, at.panel.stage, true);
      at.panel.advance();
    }
  }

 private:
  static __device__ __forceinline__ TilePanel& own_panel(Storage& shared, int stage) {
    return shared.panels[stage].of[WarpgroupThreads::warpgroup()];
  }

  // Stores the warpgroup's panel, which wgmma may read from here on, too.
  static __device__ __forceinline__ void store(const TmaMatrix<T, Warpgroup::kRows>& to,
                                               const TilePanel& panel, int32_t row,
                                               int32_t column) {
    ptx::fence_proxy_async();
    WarpgroupThreads::sync();
    if (WarpgroupThreads::index() == 0) {
      to.store(panel.bytes, row, column);
      ptx::tma_store_commit();
    }
    __syncwarp();
  }

  // Gives the panels back when TMA has read the warpgroup's.
  static __device__ __forceinline__ void release_panel(Storage& shared, int stage, bool condition) {
    if (WarpgroupThreads::index() == 0) ptx::tma_store_wait_read<0>();
    __syncwarp();
    shared.panel_ring.release_if(stage, condition);
  }
};

// grid: as many clusters as run at once, or one for each tile where those are fewer.
template <class T, int kReduced>
__global__ void __launch_bounds__(ExpandReduce<T, kReduced>::kThreads, 1)
    bottleneck_expand_reduce_kernel(const __grid_constant__
                                    typename ExpandReduce<T, kReduced>::Params params) {
  using Fused = ExpandReduce<T, kReduced>;
  using Shape = typename Fused::Tile;
  auto& shared = dynamic_smem<typename Fused::Storage>();

  // Set up the rings.
  Fused::set_up(shared);
  synchronise<Shape>();
  typename Fused::Position position;
  const auto for_each_row_tile = [&](auto&& fn) {
    constexpr int kBlocks = Shape::kClusterBlocks;
    for (int64_t tile = blockIdx.x / kBlocks; tile < params.tiles; tile += gridDim.x / kBlocks) {
      fn((int32_t(tile) * kBlocks + int32_t(ptx::cluster_rank())) * Fused::kRows);
    }
  };

  // Wait for the kernels before this one; the one behind finds room where blocks have left.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  // The warp behind the warpgroups fills them.
  if (threadIdx.x >= Shape::kConsumers) {
    ptx::set_max_registers_decrease<Shape::kProducerRegisters>();
    if (threadIdx.x < Shape::kConsumers + 32) {
      if (ptx::elect_one()) {
        for_each_row_tile([&](int32_t row) { Fused::load(params, row, shared, position); });
      }
    }
    finish<Shape>();
    return;
  }

  // Those multiply and store.
  ptx::set_max_registers_increase<Shape::kConsumerRegisters>();
  for_each_row_tile([&](int32_t row) { Fused::run(params, row, shared, position); });
  finish<Shape>();
}

}  // namespace rnc
