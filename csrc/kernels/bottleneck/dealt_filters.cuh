// Filters dealt over the columns of a product such that each thread's accumulators are whole groups
// of 8 channels: they go from registers to memory, and what is added comes, 16 bytes at a time.
#pragma once

#include "ptx/tma.cuh"
#include "tile/element_group.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc {

// Of 64 columns, a thread of a wgmma has 2 of every 8. Column [2, 4 (i), 4 (thread), 2] has the
// filter of channel [2, 4 (thread), 4 (i), 2]: boxes of 8 columns take 2 of every 8 filters.
template <class T>
struct DealtFilters {
  static constexpr int kColumns = 64;
  static constexpr int kAccumulators = kColumns / 2;
  static constexpr int kRows = 2, kGroups = 2;  // of a thread's; its second row lies 8 below
  using Slice = KMajorSlice<kColumns>;

  ptx::TensorMap map;  // over [C / 32, 4 (thread), 4 (i), 2, depth], depth contiguous
  const char* error;   // of making the map, or null

  // Of C channels, a multiple of 64, each a filter of so many elements.
  DealtFilters(const void* weight, int32_t C, int32_t depth);

  // Loads those of the 64 channels from first_channel on, and their first 128 bytes.
  __device__ __forceinline__ void load(Slice& slice, ptx::Mbarrier& arrived,
                                       int32_t first_channel) const {
    RNC_UNROLL_BY(1)
    for (int box = 0; box < kColumns / 8; ++box) {
      ptx::tma_load(slice.bytes + box * int(kSliceGroupBytes), &map, arrived,
                    {0, 0, box % 4, 0, first_channel / 32 + box / 4});
    }
  }

  // The first channel of the calling thread's group i, of 64.
  static __device__ __forceinline__ int32_t channel(int i) {
    return i * 32 + int32_t(threadIdx.x) % 4 * kGroupElements;
  }
  // Its accumulators of group i in row r.
  static __device__ __forceinline__ void get(const float (&accumulators)[kAccumulators], int r,
                                             int i, float (&group)[kGroupElements]) {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      group[e] = accumulators[16 * i + e / 2 * 4 + 2 * r + e % 2];
    }
  }
};

}  // namespace rnc
