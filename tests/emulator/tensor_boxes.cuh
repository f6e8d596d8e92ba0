// Tensor maps as tests/emulator/tensor_maps.py describes them.
#pragma once

#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/tensor_map.h"

namespace rnc {

// The numbers of a launch, in this order; their Python side is tensor_maps.py.
struct BoxNumbers {
  int64_t im2col, element, rank, swizzle;
  int64_t dims[5], strides_bytes[4], element_strides[5];
  int64_t box[5];                                // tiled
  int64_t lower[3], upper[3], channels, pixels;  // im2col
  int64_t coordinates[5], offsets[3];
};

template <class Description>
void copy_tensor(Description& description, const void* base, const BoxNumbers& numbers) {
  description.base = base;
  description.element = static_cast<TensorElement>(numbers.element);
  description.rank = static_cast<int32_t>(numbers.rank);
  description.swizzle = static_cast<Swizzle>(numbers.swizzle);
  for (int i = 0; i < 5; ++i) {
    description.dims[i] = static_cast<uint64_t>(numbers.dims[i]);
    description.element_strides[i] = static_cast<uint32_t>(numbers.element_strides[i]);
    if (i < 4) description.strides_bytes[i] = static_cast<uint64_t>(numbers.strides_bytes[i]);
  }
}

inline Status make_map(ptx::TensorMap* map, const void* base, const BoxNumbers& numbers) {
  if (numbers.im2col == 0) {
    TiledTensorMap tiled{};
    copy_tensor(tiled, base, numbers);
    for (int i = 0; i < 5; ++i) tiled.box[i] = static_cast<uint32_t>(numbers.box[i]);
    return make_tiled_tensor_map(map, tiled);
  }
  Im2colTensorMap im2col{};
  copy_tensor(im2col, base, numbers);
  for (int i = 0; i < 3; ++i) {
    im2col.lower[i] = static_cast<int32_t>(numbers.lower[i]);
    im2col.upper[i] = static_cast<int32_t>(numbers.upper[i]);
  }
  im2col.channels = static_cast<uint32_t>(numbers.channels);
  im2col.pixels = static_cast<uint32_t>(numbers.pixels);
  return make_im2col_tensor_map(map, im2col);
}

}  // namespace rnc
