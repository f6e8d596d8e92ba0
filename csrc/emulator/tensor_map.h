// The host stand-in for CUtensorMap: the description of a tensor in global memory, and of the box
// that one TMA instruction moves. Created by make_*_tensor_map (launch/tensor_map.h), which holds
// it against the limits that cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col document.
#pragma once

#include <cstdint>

namespace rnc::emulator {

struct alignas(64) TensorMap {
  uint64_t base;
  uint64_t dims[5];     // innermost first
  uint64_t strides[4];  // bytes, of dimensions 1 to 4
  uint16_t box[5];      // im2col: box[0] is channels per pixel
  uint16_t pixels;      // im2col: pixels per column
  int16_t lower[3];     // im2col: the bounding box of base pixels in W, H, D order is
  int16_t upper[3];     //   [lower, dim - 1 + upper], inclusive
  uint8_t element_strides[5];
  uint8_t rank;
  uint8_t element_bytes;
  uint8_t swizzle;  // log2(span / 16): 0 none, 1: 32 bytes, 2: 64, 3: 128
  uint8_t im2col;
  uint8_t valid;   // kValid, so that a map nobody made is recognised
  uint8_t rounds;  // a load rounds float32 to TF32
  uint8_t reserved[13];

  static constexpr uint8_t kValid = 0xA5;
};
static_assert(sizeof(TensorMap) == 128, "as CUtensorMap");

#pragma GCC visibility push(hidden)

// Makes the map valid. Not in line: what is built for GPUs does not link if it makes maps of the
// emulator's format.
void seal(TensorMap& map);

#pragma GCC visibility pop

}  // namespace rnc::emulator
