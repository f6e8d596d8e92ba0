// The rows of a dense matrix as boxes that TMA loads and stores. What lies behind the last row is
// zero in a load and left out of a store. launch/sm90/tma_operands.h makes the map.
#pragma once

#include "ptx/tma.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc {

// [rows, columns], in boxes of kRows rows and 128 bytes of columns.
template <class T, int kRows>
struct TmaMatrix {
  static constexpr int kBytes = kRows * kSliceBytes;

  ptx::TensorMap map;
  const char* error;  // of making the map, or null

  TmaMatrix(const void* base, int64_t rows, int32_t columns);

  __device__ __forceinline__ void load(void* box, ptx::Mbarrier& arrived, int32_t row,
                                       int32_t column) const {
    ptx::tma_load(box, &map, arrived, {column, row});
  }
  // By one thread, which closes the group.
  __device__ __forceinline__ void store(const void* box, int32_t row, int32_t column) const {
    ptx::tma_store(&map, box, {column, row});
  }
};

}  // namespace rnc
