// How a warpgroup's rows get from shared memory to the output: most epilogues store what they make
// of them. One that only looks at rows as they are stored gets them rounded, and TMA stores them
// meanwhile.
#pragma once

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
  __device__ __forceinline__ void store(const Rows&, const int32_t (&)[3]) const {}
};

// TMA does, where is_on; else the epilogue.
template <class Mainloop, class Epilogue>
  requires Epilogue::kSeesOnlyStored
struct RowStore<Mainloop, Epilogue> {
  using Rows = RoundedWarpgroupRows<typename Epilogue::Element>;
  ptx::TensorMap map;  // over [rows, groups, columns of a group], in boxes of 64, 1, 64
  bool is_on;

  // Before a barrier behind which the rows are overwritten.
  __device__ __forceinline__ void wait_until_read() const {
    if (is_own()) ptx::tma_store_wait_read<0>();
  }
  // Between writing rows and the barrier behind which they are stored.
  __device__ __forceinline__ void before_store() const { ptx::fence_proxy_async(); }

  // corner: their first column, group and first row.
  __device__ __forceinline__ void store(const Rows& rows, const int32_t (&corner)[3]) const {
    if (!is_own()) return;
    ptx::tma_store(&map, rows.panel.bytes, corner);
    ptx::tma_store_commit();
  }

 private:
  // Whether the calling thread is its warpgroup's that stores.
  __device__ __forceinline__ bool is_own() const { return is_on && WarpgroupThreads::index() == 0; }
};

}  // namespace rnc
