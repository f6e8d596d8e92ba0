// What a tensor map is made of: a tensor in global memory and the box that one TMA instruction
// moves.
#pragma once

#include <cstdint>

#include "ptx/numeric_types.h"
#include "tile/smem_descriptor.h"

namespace rnc {

// kTensorFloat32: float32 in memory, which TMA rounds to TF32 when it loads: to nearest, a tie to
// even; infinities and NaN stay as they are.
enum class TensorElement : int32_t {
  kUInt8,
  kInt32,
  kFloat16,
  kBfloat16,
  kFloat32,
  kFloat64,
  kTensorFloat32
};

constexpr uint32_t size_of(TensorElement element) {
  switch (element) {
    case TensorElement::kUInt8:
      return 1;
    case TensorElement::kFloat16:
    case TensorElement::kBfloat16:
      return 2;
    case TensorElement::kInt32:
    case TensorElement::kFloat32:
    case TensorElement::kTensorFloat32:
      return 4;
    case TensorElement::kFloat64:
      return 8;
  }
  return 0;
}

// kTensorElement<T>: the element type of a tensor of T.
template <class T>
struct TensorElementOf;
template <>
struct TensorElementOf<uint8_t> {
  static constexpr TensorElement value = TensorElement::kUInt8;
};
template <>
struct TensorElementOf<int32_t> {
  static constexpr TensorElement value = TensorElement::kInt32;
};
template <>
struct TensorElementOf<float16> {
  static constexpr TensorElement value = TensorElement::kFloat16;
};
template <>
struct TensorElementOf<bfloat16> {
  static constexpr TensorElement value = TensorElement::kBfloat16;
};
template <>
struct TensorElementOf<float> {
  static constexpr TensorElement value = TensorElement::kFloat32;
};
template <>
struct TensorElementOf<double> {
  static constexpr TensorElement value = TensorElement::kFloat64;
};
template <class T>
inline constexpr TensorElement kTensorElement = TensorElementOf<T>::value;

// Dimensions are given innermost first: for NHWC activations C, W, H, N.

// For tma_load and tma_store: boxes of `box` elements. A stride s along a dimension moves every
// s-th element, ceil(box / s) of them, packed; that of dimension 0 has no effect.
struct TiledTensorMap {
  const void* base;
  TensorElement element;
  int32_t rank;
  uint64_t dims[5];
  uint64_t strides_bytes[4];  // of dimensions 1 to rank - 1
  uint32_t box[5];
  uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  Swizzle swizzle = Swizzle::kNone;

  bool operator==(const TiledTensorMap&) const = default;
};

// For tma_load_im2col: `pixels` pixels of `channels` elements each. Base pixels walk through the
// bounding box [lower, dim - 1 + upper], inclusive, W fastest, in steps of element_strides; the
// instruction's offsets shift them. A convolution's forward pass has lower = -padding, upper =
// padding - (filter - 1) dilation and element_strides = {1, stride, stride, 1}.
struct Im2colTensorMap {
  const void* base;
  TensorElement element;
  int32_t rank;
  uint64_t dims[5];
  uint64_t strides_bytes[4];  // of dimensions 1 to rank - 1
  int32_t lower[3];           // W, H, D
  int32_t upper[3];           // W, H, D
  uint32_t channels;
  uint32_t pixels;
  uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  Swizzle swizzle = Swizzle::kNone;

  bool operator==(const Im2colTensorMap&) const = default;
};

}  // namespace rnc
