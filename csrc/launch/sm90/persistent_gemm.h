// Launches main loops that are fed by a warp of their own: as many blocks as run at once.
#pragma once

#include <algorithm>

#include "kernels/conv/sm90/persistent_gemm.cuh"
#include "launch/implicit_gemm.h"
#include "launch/sm90/tma_operands.h"

namespace rnc {

template <class Mainloop>
  requires Mainloop::kIsWarpSpecialised
struct GemmKernel<Mainloop> {
  template <class RowPlaces, int kGemms, class Epilogue>
  static Status launch(const ConvPlan& plan,
                       const ImplicitGemmParams<Mainloop, RowPlaces, kGemms, Epilogue>& params,
                       int gemms, Stream stream) {
    for (int i = 0; i < gemms; ++i) {
      if (const char* error = params.gemms[i].operands.error()) return {error};
    }
    // The first GEMM is the largest.
    constexpr int kClusterBlocks = Mainloop::BlockShape::kClusterBlocks;
    const GemmShape& shape = params.gemms[0].shape;
    const int64_t of_gemm = (shape.rows - 1) / (kClusterBlocks * Mainloop::kRows) + 1;
    PersistentTiles tiles{int32_t(of_gemm * shape.column_tiles.divisor),
                          shape.groups * shape.splits, 0};
    tiles.all = int64_t(tiles.tiles) * tiles.groups_and_splits * gemms;
    const int64_t at_once =
        int64_t(current_device().multiprocessors) * Mainloop::kBlocks / kClusterBlocks;
    const int64_t clusters = std::clamp<int64_t>(at_once, 1, tiles.all);
    const Dim3 grid = {uint32_t(clusters * kClusterBlocks), 1, 1};
    PersistentGemmParams<Mainloop, RowPlaces, kGemms, Epilogue> of{params, tiles, {}};
    if constexpr (requires { of.output.map; }) {
      of.output.is_on = of.of.epilogue.stored = maps_output<RowPlaces>(of);
    }
    return launch_kernel(plan.kernel, persistent_gemm_kernel<Mainloop, RowPlaces, kGemms, Epilogue>,
                         grid, Dim3{Mainloop::kThreads, 1, 1},
                         sizeof(PersistentGemmStorage<Mainloop, Epilogue>), stream, of,
                         Dim3{kClusterBlocks, 1, 1}, Mainloop::kBlocks, Start::kEarly);
  }

 private:
  // Makes the map of the output; false: TMA cannot store it.
  template <class RowPlaces, class Params>
  static bool maps_output(Params& params) {
    const auto& epilogue = params.of.epilogue;
    const GemmShape& shape = params.of.gemms[0].shape;
    const int64_t columns = shape.columns, stride = epilogue.row_stride;
    const auto can_store = [&](const TiledTensorMap& map) {
      return tma_operands::cached(&params.output.map, map).ok();
    };
    using T = typename std::remove_cvref_t<decltype(epilogue)>::Element;
    if constexpr (std::is_same_v<RowPlaces, HaloRows>) {
      const HaloRows& places = params.of.gemms[0].places;
      const int64_t W = places.width(), H = places.height();
      return can_store(tma_operands::tiled<T, 4>(
          epilogue.y, {columns, W, H, shape.rows / (H * W)}, {stride, stride * W, stride * W * H},
          {kBoxChannels<T>, HaloSquare::kSide, HaloSquare::kSide, 1}));
    } else if constexpr (std::is_same_v<RowPlaces, DenseRows>) {
      // A single group's stride only has to be a possible one.
      const int64_t of_group = shape.groups > 1 ? shape.group_columns : stride;
      return can_store(tma_operands::tiled<T, 3>(epilogue.y, {columns, shape.groups, shape.rows},
                                                 {of_group, stride},
                                                 {kBoxChannels<T>, 1, kStatsTileRows}));
    } else {
      return false;
    }
  }
};

}  // namespace rnc
