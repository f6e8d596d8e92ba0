// Rectangles of an image's pixels as boxes that TMA loads. What lies outside of the image is zero.
// launch/sm90/tma_operands.h makes the map.
#pragma once

#include "ptx/tma.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc {

// [N, H, W, C], in boxes of kRows x kColumns pixels and 128 bytes of channels.
template <class T, int kRows, int kColumns>
struct TmaImage {
  ptx::TensorMap map;
  const char* error;  // of making the map, or null

  TmaImage(const void* base, int32_t N, int32_t H, int32_t W, int32_t C);

  struct Pixel {
    int32_t n, h, w;
  };
  __device__ __forceinline__ void load(void* box, ptx::Mbarrier& arrived, const Pixel& at,
                                       int32_t channel) const {
    ptx::tma_load(box, &map, arrived, {channel, at.w, at.h, at.n});
  }
};

}  // namespace rnc
