// The tensor maps of the reference kernels: matrices, filters and NHWC images, always with 128-byte
// swizzle.
#pragma once

#include "../arguments.h"
#include "launch/tensor_map.h"

namespace rnc::reference {

// The rank, dimensions (innermost first) and strides of a dense tensor of description.element.
template <class Description, int kRank>
void set_dense(Description& description, const int32_t (&dims)[kRank]) {
  description.rank = kRank;
  uint64_t stride = size_of(description.element);
  for (int i = 0; i < kRank; ++i) {
    if (i > 0) description.strides_bytes[i - 1] = stride;
    stride *= uint64_t(dims[i]);
    description.dims[i] = uint64_t(dims[i]);
  }
}

// A dense matrix [rows, columns], boxes of box_rows x box_columns.
template <class T>
Status make_matrix_map(ptx::TensorMap* map, const void* base, int32_t rows, int32_t columns,
                       int32_t box_rows, int32_t box_columns) {
  TiledTensorMap description = {};
  description.base = base;
  description.element = kTensorElement<T>;
  const int32_t dims[] = {columns, rows};
  set_dense(description, dims);
  description.box[0] = uint32_t(box_columns);
  description.box[1] = uint32_t(box_rows);
  description.swizzle = Swizzle::k128;
  return make_tiled_tensor_map(map, description);
}

// weight[K, R, S, C], boxes of box_channels channels of one tap of box_filters filters.
template <class T>
Status make_filter_map(ptx::TensorMap* map, const void* base, const Conv2dProblem& problem,
                       int32_t box_filters, int32_t box_channels) {
  TiledTensorMap description = {};
  description.base = base;
  description.element = kTensorElement<T>;
  const int32_t dims[] = {problem.C, problem.S, problem.R, problem.K};
  const int32_t box[] = {box_channels, 1, 1, box_filters};
  set_dense(description, dims);
  for (int i = 0; i < 4; ++i) description.box[i] = uint32_t(box[i]);
  description.swizzle = Swizzle::k128;
  return make_tiled_tensor_map(map, description);
}

// The input of a convolution x[N, H, W, C]: columns of `pixels` output pixels x `channels`.
template <class T>
Status make_image_map(ptx::TensorMap* map, const void* base, const Conv2dProblem& problem,
                      int32_t pixels, int32_t channels) {
  Im2colTensorMap description = {};
  description.base = base;
  description.element = kTensorElement<T>;
  const int32_t dims[] = {problem.C, problem.W, problem.H, problem.N};
  set_dense(description, dims);
  description.lower[0] = -problem.pad_w;
  description.lower[1] = -problem.pad_h;
  description.upper[0] = problem.pad_w - (problem.S - 1) * problem.dilation_w;
  description.upper[1] = problem.pad_h - (problem.R - 1) * problem.dilation_h;
  description.channels = uint32_t(channels);
  description.pixels = uint32_t(pixels);
  description.element_strides[1] = uint32_t(problem.stride_w);
  description.element_strides[2] = uint32_t(problem.stride_h);
  description.swizzle = Swizzle::k128;
  return make_im2col_tensor_map(map, description);
}

}  // namespace rnc::reference
