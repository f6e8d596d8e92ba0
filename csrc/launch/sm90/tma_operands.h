// Makes the tensor maps of the Hopper main loops from the operands that those of other generations
// take. What such maps can say, plan.cpp knows (why_not_by_tma): a plan that asks for these kernels
// gets them.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "kernels/conv/operands.cuh"
#include "kernels/conv/sm90/fragment_prologue.cuh"
#include "kernels/conv/sm90/tma_image.cuh"
#include "kernels/conv/sm90/tma_matrix.cuh"
#include "kernels/conv/sm90/tma_operands.cuh"
#include "launch/tensor_map.h"
#include "launch/tensor_map_cache.h"

namespace rnc {

// What filters are asked for that no pixels say.
struct FilterTaps {
  int32_t taps_h, taps_w, channels_per_group;
};

namespace tma_operands {

// Of what is multiplied as it comes: wgmma would cut float32 down to TF32, not round it.
template <class T>
inline constexpr TensorElement kFactorElement =
    std::is_same_v<T, float> ? TensorElement::kTensorFloat32 : kTensorElement<T>;

// Dimensions are given innermost first.
template <class T, int kRank>
TiledTensorMap tiled(const void* base, const int64_t (&dims)[kRank],
                     const int64_t (&strides)[kRank - 1], const int32_t (&box)[kRank]) {
  TiledTensorMap map{};
  map.base = base;
  map.element = kTensorElement<T>;
  map.rank = kRank;
  map.swizzle = Swizzle::k128;
  for (int i = 0; i < kRank; ++i) {
    map.dims[i] = uint64_t(dims[i]);
    map.box[i] = uint32_t(box[i]);
    if (i > 0) map.strides_bytes[i - 1] = uint64_t(strides[i - 1]) * sizeof(T);
  }
  return map;
}

// The rows of a dense matrix [rows, C], in boxes of so many.
template <class T>
TiledTensorMap matrix(const void* base, int64_t rows, int32_t C, int32_t box_rows) {
  return tiled<T, 2>(base, {C, rows}, {C}, {kBoxChannels<T>, box_rows});
}

// The pixels of images [N, H, W, C], in boxes of so many rows and columns of one image.
template <class T>
TiledTensorMap pixels(const void* base, int32_t N, int32_t H, int32_t W, int32_t C,
                      int32_t box_rows, int32_t box_columns) {
  const int64_t row = int64_t(W) * C;
  return tiled<T, 4>(base, {C, W, H, N}, {C, row, row * H},
                     {kBoxChannels<T>, box_columns, box_rows, 1});
}

// The pixels of an image that a window moves over, in boxes of so many base positions.
template <class T>
Im2colTensorMap image(const void* base, int32_t N, int32_t C, const BoxAxis& h, int32_t positions_h,
                      const BoxAxis& w, int32_t positions_w, int32_t box_pixels) {
  Im2colTensorMap map{};
  map.base = base;
  map.element = kTensorElement<T>;
  map.rank = 4;
  map.swizzle = Swizzle::k128;
  const int32_t dims[] = {C, w.size, h.size, N};
  uint64_t stride = sizeof(T);
  for (int i = 0; i < 4; ++i) {
    if (i > 0) map.strides_bytes[i - 1] = stride;
    map.dims[i] = uint64_t(dims[i]);
    stride *= uint64_t(dims[i]);
  }
  const BoxAxis axes[] = {w, h};
  const int32_t positions[] = {positions_w, positions_h};
  for (int i = 0; i < 2; ++i) {
    map.lower[i] = axes[i].lower;
    map.upper[i] = axes[i].upper(positions[i]);
    map.element_strides[i + 1] = uint32_t(axes[i].stride);
  }
  map.channels = kBoxChannels<T>;
  map.pixels = uint32_t(box_pixels);
  return map;
}

inline Status cached(ptx::TensorMap* map, const TiledTensorMap& description) {
  return cached_tensor_map(map, description, make_tiled_tensor_map);
}
inline Status cached(ptx::TensorMap* map, const Im2colTensorMap& description) {
  return cached_tensor_map(map, description, make_im2col_tensor_map);
}

// A vector by channel, or so many one behind the other, and where its map goes.
struct SliceMap {
  ptx::TensorMap* map;
  const float* vectors;
  int32_t count = 1;
};

// Maps of what a slice of T brings for its channels. Null, or the first error.
template <class T>
const char* make_slice_maps(int32_t C, std::initializer_list<SliceMap> slices) {
  for (const SliceMap& of : slices) {
    TiledTensorMap description{};
    description.base = of.vectors;
    description.element = kTensorElement<float>;
    description.rank = of.count == 1 ? 1 : 2;
    description.dims[0] = uint64_t(C);
    description.dims[1] = uint64_t(of.count);
    description.strides_bytes[0] = uint64_t(C) * sizeof(float);
    description.box[0] = kBoxChannels<T>;
    description.box[1] = uint32_t(of.count);
    const Status status = cached(of.map, description);
    if (!status.ok()) return status.error;
  }
  return nullptr;
}

// The maps of pixels and of what their prologue reads beside them.
template <class Pixels, class Description>
const char* make_maps(Pixels& pixels, Description description) {
  if constexpr (Pixels::Prologue::kChangesNothing) {
    description.element = kFactorElement<typename Pixels::Element>;
  }
  const Status status = cached(&pixels.map, description);
  if constexpr (Pixels::Prologue::kHasCompanion) {
    if (status.ok()) {
      description.base = pixels.prologue.companion;
      return cached(&pixels.companion.map, description).error;
    }
  }
  return status.error;
}

// The windows that see one pixel each.
template <class T, class Prologue>
WindowRows<T, Prologue> as_window(const PixelRows<T, Prologue>& rows) {
  const auto axis = [](int32_t size, const FastDivmod& positions, int32_t stride) {
    return WindowAxis{size, int32_t(positions.divisor), stride, 0, 1, 1};
  };
  return WindowRows<T, Prologue>(rows.x, rows.prologue, axis(rows.H, rows.by_P, rows.stride_h),
                                 axis(rows.W, rows.by_Q, rows.stride_w), rows.N, rows.C,
                                 rows.channels_per_group);
}
template <class T, class Prologue>
const WindowRows<T, Prologue>& as_window(const WindowRows<T, Prologue>& window) {
  return window;
}

// Whether its rows are those of a matrix: every pixel once, in order.
template <class T, class Prologue>
bool sees_every_pixel(const WindowRows<T, Prologue>& window) {
  const auto along = [](const WindowAxis& axis) {
    return axis.taps == 1 && axis.stride == 1 && axis.origin == 0 && axis.positions == axis.size;
  };
  return along(window.axis_h) && along(window.axis_w);
}

}  // namespace tma_operands

template <class T, class Prologue, int kPixels>
template <class Operand>
TmaPixels<T, Prologue, kPixels>::TmaPixels(const Operand& operand) : prologue(operand.prologue) {
  const auto& window = tma_operands::as_window(operand);
  const WindowAxis &over_h = window.axis_h, &over_w = window.axis_w;
  h = box_axis(over_h);
  w = box_axis(over_w);
  taps_h = over_h.taps;
  taps_w = over_w.taps;
  C = window.C;
  channels_per_group = window.channels_per_group;
  by_positions_h = window.by_positions_h;
  by_positions_w = window.by_positions_w;
  is_matrix = tma_operands::sees_every_pixel(window);
  error =
      is_matrix
          ? tma_operands::make_maps(
                *this, tma_operands::matrix<T>(
                           window.image, int64_t(window.N) * over_h.size * over_w.size, C, kPixels))
          : tma_operands::make_maps(
                *this, tma_operands::image<T>(window.image, window.N, C, h, over_h.positions, w,
                                              over_w.positions, kPixels));
}

template <class T, class Prologue, int kPixels>
template <class Operand, class FilterOperand>
TmaPixels<T, Prologue, kPixels>::TmaPixels(const Operand& operand, const FilterOperand& filters)
    : TmaPixels(operand) {
  if constexpr (!FilterOperand::kDepthIsContiguous) {
    if (filters.matrices > 1) {
      taps_h = filters.matrices;
      h.tap_shift = 0;
    }
  }
}

template <class T>
template <class Pixels>
SliceChannels<ScaleBiasRelu<T>>::SliceChannels(const Pixels& pixels)
    : is_on(pixels.prologue.scale != nullptr),
      to_floor(pixels.prologue.floor ? 0 : pixels.C),
      error(nullptr) {
  if (!is_on) return;
  const ScaleBiasRelu<T>& prologue = pixels.prologue;
  error = tma_operands::make_slice_maps<T>(
      pixels.C, {{&scale, prologue.scale},
                 {&bias, prologue.bias},
                 {&floor, prologue.floor ? prologue.floor : prologue.bias}});
}

template <class T>
template <class Pixels>
SliceChannels<BnBackward<T>>::SliceChannels(const Pixels& pixels) {
  const BnBackward<T>& prologue = pixels.prologue;
  const bool has_gate = prologue.gate_scale != nullptr;
  error = tma_operands::make_slice_maps<T>(
      pixels.C, {{&coefficients, prologue.coefficients, kBnCoefficients},
                 {&gate_scale, has_gate ? prologue.gate_scale : prologue.coefficients},
                 {&gate_bias, has_gate ? prologue.gate_bias : prologue.coefficients}});
}

template <class T, int kTileColumns, bool kDepthIsContiguous, int kBlocks>
template <class Operand, class Pixels>
TmaFilters<T, kTileColumns, kDepthIsContiguous, kBlocks>::TmaFilters(const Operand& operand,
                                                                     const Pixels& pixels)
    : filters_per_group(operand.filters_per_group) {
  static_assert(Operand::kDepthIsContiguous == kDepthIsContiguous);
  // A pass over no taps at all has maps too, of the taps that its filters have at least.
  const int64_t taps_h = std::max(pixels.taps_h, 1), taps_w = std::max(pixels.taps_w, 1);
  TiledTensorMap description;
  if constexpr (kDepthIsContiguous) {
    const int64_t channels = pixels.channels_per_group;
    description = tma_operands::tiled<T, 4>(
        operand.weight, {channels, taps_w, taps_h, operand.filters},
        {channels, taps_w * channels, operand.filter_size}, {kBoxChannels<T>, 1, 1, kShareColumns});
  } else {
    description = tma_operands::tiled<T, 4>(
        operand.weight, {operand.channels_per_group, taps_w, taps_h, operand.filters},
        {operand.tap_step, operand.matrices > 1 ? operand.matrix_size() : operand.row_step,
         operand.filter_size},
        {kBoxChannels<T>, 1, 1, Slice::kDepth});
  }
  description.element = tma_operands::kFactorElement<T>;
  error = tma_operands::cached(&map, description).error;
}

template <class T, int kRows, int kColumns>
TmaImage<T, kRows, kColumns>::TmaImage(const void* base, int32_t N, int32_t H, int32_t W, int32_t C)
    : error(tma_operands::cached(&map, tma_operands::pixels<T>(base, N, H, W, C, kRows, kColumns))
                .error) {}

template <class T, int kRows>
TmaMatrix<T, kRows>::TmaMatrix(const void* base, int64_t rows, int32_t columns)
    : error(tma_operands::cached(&map, tma_operands::matrix<T>(base, rows, columns, kRows)).error) {
}

}  // namespace rnc
