// Launches main loops that are fed by a warp of their own: as many blocks as run at once.
#pragma once

#include <algorithm>

#include "kernels/conv/sm90/persistent_gemm.cuh"
#include "launch/implicit_gemm.h"

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
    const PersistentTiles tiles{int32_t(plan.grid[0]), int32_t(plan.grid[1]),
                                plan.grid[0] * plan.grid[1] * gemms};
    const int64_t at_once = int64_t(current_device().multiprocessors) * Mainloop::kBlocks;
    const Dim3 grid = {uint32_t(std::min(tiles.all, at_once)), 1, 1};
    const PersistentGemmParams<Mainloop, RowPlaces, kGemms, Epilogue> of{params, tiles};
    return launch_kernel(plan.kernel,
                         persistent_gemm_kernel<Mainloop, RowPlaces, kGemms, Epilogue>, grid,
                         Dim3{Mainloop::kThreads, 1, 1},
                         sizeof(PersistentGemmStorage<Mainloop, Epilogue>), stream, of, {},
                         uint32_t(Mainloop::kBlocks));
  }
};

}  // namespace rnc
