// The kernel of the Hopper main loops: every block computes tile after tile. One thread loads the
// operands of the next ones while two warpgroups multiply one and hand it to the epilogue, each
// its own 64 rows. Which block computes which tile is fixed by the launch, and nothing depends on
// it.
#pragma once

#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/conv/sm90/row_store.cuh"
#include "ptx/cluster.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/warpgroup.cuh"

namespace rnc {

// Which tiles there are: those of the launch's GEMMs, one GEMM after the other. The blocks of a
// cluster compute as many tiles, one below the other, which count as one here.
struct PersistentTiles {
  int32_t tiles, groups_and_splits;  // of one GEMM
  int64_t all;
};

template <class Mainloop, class RowPlaces, int kGemms, class Epilogue>
struct PersistentGemmParams {
  ImplicitGemmParams<Mainloop, RowPlaces, kGemms, Epilogue> of;
  PersistentTiles tiles;
  RowStore<Mainloop, Epilogue> output;
};

template <class Mainloop>
struct WarpgroupPieces : RowPieces<Mainloop::kStagedColumns, WarpgroupThreads> {
  static constexpr int kAhead = Mainloop::BlockShape::kAhead;
};

// The epilogue's part is not the ring's: the next tile is loaded while this one is stored.
template <class Mainloop, class Epilogue>
struct PersistentGemmStorage {
  typename Mainloop::Storage mainloop;
  struct Output {
    typename RowStore<Mainloop, Epilogue>::Rows rows;
    typename Epilogue::template SharedStorage<WarpgroupPieces<Mainloop>> epilogue;
  } outputs[Mainloop::kConsumers / WarpgroupThreads::kCount];
};

// Calls fn(gemm, tile) for the tiles of this block, in the order in which all of its threads see
// them.
template <class Mainloop, class Params, class Fn>
__device__ __forceinline__ void for_each_tile(const Params& params, Fn&& fn) {
  constexpr int kBlocks = Mainloop::BlockShape::kClusterBlocks;
  const PersistentTiles& tiles = params.tiles;
  for (int64_t index = blockIdx.x / kBlocks; index < tiles.all; index += gridDim.x / kBlocks) {
    // [gemms, groups * splits, tiles]
    const int64_t in_gemm = index / tiles.tiles;
    const auto& gemm = params.of.gemms[in_gemm / tiles.groups_and_splits];
    GemmTile at;
    if (!find_tile<kBlocks * Mainloop::kRows, Mainloop::kColumns>(
            gemm.shape, int32_t(index % tiles.tiles), int32_t(in_gemm % tiles.groups_and_splits),
            at)) {
      continue;
    }
    // A block without rows takes part: the others wait for its share of the filters.
    if constexpr (kBlocks > 1) at.first_row += int32_t(ptx::cluster_rank()) * Mainloop::kRows;
    fn(gemm, at);
  }
}

// Brings the rows that the epilogue will read beside the tile's into the L2 cache while the tile is
// multiplied: a row for each lane of the warp at a time.
template <class Mainloop, class Epilogue, class Gemm>
__device__ __forceinline__ void prefetch_inputs(const Epilogue& epilogue, const Gemm& gemm,
                                                const GemmTile& at) {
  const auto prefetch = [&](const auto* matrix, int64_t row_stride) {
    const GemmShape& shape = gemm.shape;
    const int32_t rows = min(shape.rows - at.first_row, int32_t(Mainloop::kRows));
    const int32_t columns = min(shape.columns - at.first_column, int32_t(Mainloop::kColumns));
    const int64_t first_row = int64_t(at.group) * shape.group_rows + at.first_row;
    const int32_t channel = at.group * shape.group_columns + at.first_column;
    RNC_UNROLL_BY(1)
    for (int32_t row = int32_t(threadIdx.x) % 32; row < rows; row += 32) {
      const auto* first = matrix + gemm.places.row(first_row + row) * row_stride + channel;
      ptx::prefetch_l2(first, uint32_t(columns) * uint32_t(sizeof *first));
    }
  };
  if constexpr (requires { epilogue.for_each_input(prefetch); }) {
    epilogue.for_each_input(prefetch);
  }
}

// The producing warp: loads what a main loop keeps in shared memory for all tiles of the block.
template <class Mainloop, class Params>
__device__ __forceinline__ void load_resident(const Params& params,
                                              typename Mainloop::Storage& shared) {
  if constexpr (requires { Mainloop::load_resident(params.of.gemms[0].operands, shared); }) {
    if (ptx::elect_one()) Mainloop::load_resident(params.of.gemms[0].operands, shared);
  }
}

// Of all threads that may reach each other's shared memory.
template <class Shape>
__device__ __forceinline__ void synchronise() {
  if constexpr (Shape::kClusterBlocks == 1) {
    __syncthreads();
  } else {
    __syncwarp();
    ptx::cluster_sync();
  }
}

// Nobody leaves while another block of the cluster still loads into its shared memory.
template <class Shape>
__device__ __forceinline__ void finish() {
  if constexpr (Shape::kClusterBlocks > 1) synchronise<Shape>();
}

// grid: as many blocks as run at once, or one for each tile where those are fewer.
template <class Mainloop, class RowPlaces, int kGemms, class Epilogue>
__global__ void __launch_bounds__(Mainloop::kThreads, Mainloop::kBlocks) persistent_gemm_kernel(
    const __grid_constant__ PersistentGemmParams<Mainloop, RowPlaces, kGemms, Epilogue> params) {
  using Pieces = WarpgroupPieces<Mainloop>;
  using Shape = typename Mainloop::BlockShape;
  auto& shared = dynamic_smem<PersistentGemmStorage<Mainloop, Epilogue>>();

  // Set up the ring.
  Mainloop::set_up(shared.mainloop);
  synchronise<Shape>();
  typename Mainloop::Position position;

  // Wait for the kernels before this one. The one behind finds room where this one's blocks, which
  // fill their multiprocessors, have left.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  // The warp behind the warpgroups fills it.
  if (threadIdx.x >= Mainloop::kConsumers) {
    ptx::set_max_registers_decrease<Shape::kProducerRegisters>();
    if (threadIdx.x < Mainloop::kConsumers + 32) {
      load_resident<Mainloop>(params, shared.mainloop);
      for_each_tile<Mainloop>(params, [&](const auto& gemm, const GemmTile& at) {
        prefetch_inputs<Mainloop>(params.of.epilogue, gemm, at);
        if (ptx::elect_one()) Mainloop::load(gemm.operands, at, shared.mainloop, position);
        __syncwarp();
      });
    }
    finish<Shape>();
    return;
  }

  ptx::set_max_registers_increase<Shape::kConsumerRegisters>();
  for_each_tile<Mainloop>(params, [&](const auto& gemm, const GemmTile& at) {
    // Multiply.
    Mainloop tile;
    tile.run(gemm.operands, at, shared.mainloop, position);

    // Hand this warpgroup's rows to the epilogue, as many columns at a time as it stages.
    const GemmShape& shape = gemm.shape;
    auto& output = shared.outputs[WarpgroupThreads::warpgroup()];
    const int32_t first_row = at.first_row + Mainloop::warpgroup_row();
    if (first_row >= shape.rows) return;
    TileCoord coord;
    coord.row = int64_t(at.group) * shape.group_rows + first_row;
    coord.rows = min(shape.rows - first_row, kStatsTileRows);
    coord.tile_row = shape.first_tile_row + first_row / kStatsTileRows;
    coord.split = at.split;
    RNC_UNROLL_BY(1)
    for (int part = 0; part < Mainloop::kWarpgroupColumns / Mainloop::kStagedColumns; ++part) {
      const int32_t first_column =
          at.first_column + Mainloop::warpgroup_column() + part * Mainloop::kStagedColumns;
      if (first_column >= shape.columns) break;
      params.output.wait_until_read();
      WarpgroupThreads::sync();  // the rows before have been read
      tile.stage(part, output.rows);
      params.output.before_store();
      WarpgroupThreads::sync();
      params.output.store(output.rows, gemm.places, first_column, at.group, first_row);
      coord.channel = at.group * shape.group_columns + first_column;
      coord.columns = min(shape.columns - first_column, int32_t(Mainloop::kStagedColumns));
      params.of.epilogue.template run<Pieces>(coord, gemm.places, output.rows, output.epilogue);
    }
  });
  params.output.wait_until_read();
  finish<Shape>();
}

}  // namespace rnc
