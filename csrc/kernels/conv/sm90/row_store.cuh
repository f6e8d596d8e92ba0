// How a warpgroup's rows get from shared memory to the output: most epilogues store what they make
// of them. One that only looks at rows as they are stored gets them rounded, and TMA stores them
// meanwhile.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/sm90/halo_square.h"
#include "ptx/fence.cuh"
#include "ptx/tma.cuh"
#include "tile/warpgroup_rows.cuh"

namespace rnc {

// The epilogue stores.
template <class Mainloop, class Epilogue>
struct RowStore {
  using Rows = typename Mainloop::Rows;

  __device__ __forceinline__ void wait_until_read() const {}
  __device__ __forceinline__ void before_store() const {}
  template <class RowPlaces>
  __device__ __forceinline__ void store(const Rows&, const RowPlaces&, int32_t /*column*/,
                                        int32_t /*group*/, int32_t /*row*/) const {}
};

// TMA does, where is_on; else the epilogue. Of 16 bits: 64 columns are what a swizzle spans.
template <class Mainloop, class Epilogue>
  requires(Epilogue::kSeesOnlyStored && sizeof(typename Epilogue::Element) == 2)
struct RowStore<Mainloop, Epilogue> {
  using Rows = RoundedWarpgroupRows<typename Epilogue::Element>;
  // Over [rows, groups, columns of a group], in boxes of 64, 1, 64; where rows are squares of
  // pixels over [N, H, W, columns], in boxes of 1, 8, 8, 64.
  ptx::TensorMap map;
  bool is_on;

  // Before a barrier behind which the rows are overwritten.
  __device__ __forceinline__ void wait_until_read() const {
    if (is_own()) ptx::tma_store_wait_read<0>();
  }
  // Between writing rows and the barrier behind which they are stored.
  __device__ __forceinline__ void before_store() const { ptx::fence_proxy_async(); }

  // column, row: the group's first ones that the rows hold.
  template <class RowPlaces>
  __device__ __forceinline__ void store(const Rows& rows, const RowPlaces& places, int32_t column,
                                        int32_t group, int32_t row) const {
    if (!is_own()) return;
    if constexpr (std::is_same_v<RowPlaces, HaloRows>) {
      const HaloRows::Pixel corner = places.pixel(row);
      ptx::tma_store(&map, rows.panel.bytes, {column, corner.w, corner.h, corner.n});
    } else {
      ptx::tma_store(&map, rows.panel.bytes, {column, group, row});
    }
    ptx::tma_store_commit();
  }

 private:
  // Whether the calling thread is its warpgroup's that stores.
  __device__ __forceinline__ bool is_own() const { return is_on && WarpgroupThreads::index() == 0; }
};

}  // namespace rnc
