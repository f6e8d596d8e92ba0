// Where the 16-byte pieces of a GEMM's operands lie in global memory: matrices, and an NHWC image
// and its filters seen as matrices that are never stored.
#pragma once

#include "common/fast_divmod.h"
#include "kernels/conv/conv_problem.h"
#include "ptx/keywords.h"

namespace rnc::reference {

// A dense row-major matrix [rows, depth]; depth a multiple of 16 bytes.
template <class T>
struct MatrixRows {
  const T* elements;
  int32_t rows, depth;

  using Row = int32_t;
  using Depth = int32_t;

  // Some readable address: where a copy of zero bytes points.
  __device__ __forceinline__ const T* base() const { return elements; }

  __device__ __forceinline__ Row row(int32_t index) const { return index; }
  // Element `offset` of slice `slice`.
  template <int kSliceElements>
  __device__ __forceinline__ Depth at_depth(int32_t slice, int32_t offset) const {
    return slice * kSliceElements + offset;
  }
  // Null outside the matrix, where the operand is zero.
  __device__ __forceinline__ const T* find(Row row, Depth at) const {
    return row < rows && at < depth ? elements + int64_t(row) * depth + at : nullptr;
  }
};

// Slices of a convolution's depth: for each filter tap (r, s), the channels in pieces of one slice.
struct ConvSlices {
  FastDivmod pieces, filter_width;

  struct Depth {
    int32_t r, s, channel;
  };

  ConvSlices(const Conv2dProblem& problem, int32_t slice_channels)
      : pieces((problem.C + slice_channels - 1) / slice_channels), filter_width(problem.S) {}

  template <int kSliceElements>
  __device__ __forceinline__ Depth at(int32_t slice, int32_t offset) const {
    Depth depth;
    int32_t piece;
    const int32_t tap = pieces.divide(slice, piece);
    depth.r = filter_width.divide(tap, depth.s);
    depth.channel = piece * kSliceElements + offset;
    return depth;
  }
};

// Row m is output pixel m, its depth the input elements that its filters see.
template <class T>
struct Im2colPixels {
  const T* x;  // [N, H, W, C]
  Conv2dProblem problem;
  ConvSlices slices;
  FastDivmod width, height;  // of the output

  Im2colPixels(const T* x, const Conv2dProblem& problem, int32_t slice_channels)
      : x(x),
        problem(problem),
        slices(problem, slice_channels),
        width(problem.Q),
        height(problem.P) {}

  struct Row {
    const T* image;  // null past the last pixel
    int32_t h, w;    // the input pixel under tap (0, 0)
  };
  using Depth = ConvSlices::Depth;

  __device__ __forceinline__ const T* base() const { return x; }
  __device__ __forceinline__ Row row(int32_t pixel) const {
    int32_t p, q;
    const int32_t n = height.divide(width.divide(pixel, q), p);
    const T* image = n < problem.N ? x + int64_t(n) * problem.H * problem.W * problem.C : nullptr;
    return {image, p * problem.stride_h - problem.pad_h, q * problem.stride_w - problem.pad_w};
  }
  template <int kSliceElements>
  __device__ __forceinline__ Depth at_depth(int32_t slice, int32_t offset) const {
    return slices.at<kSliceElements>(slice, offset);
  }
  __device__ __forceinline__ const T* find(const Row& row, const Depth& at) const {
    const int32_t h = row.h + at.r * problem.dilation_h, w = row.w + at.s * problem.dilation_w;
    const bool inside =
        row.image && at.channel < problem.C && h >= 0 && h < problem.H && w >= 0 && w < problem.W;
    return inside ? row.image + (int64_t(h) * problem.W + w) * problem.C + at.channel : nullptr;
  }
};

// Row k is filter k.
template <class T>
struct FilterTaps {
  const T* weight;  // [K, R, S, C]
  Conv2dProblem problem;
  ConvSlices slices;

  FilterTaps(const T* weight, const Conv2dProblem& problem, int32_t slice_channels)
      : weight(weight), problem(problem), slices(problem, slice_channels) {}

  using Row = int32_t;
  using Depth = ConvSlices::Depth;

  __device__ __forceinline__ const T* base() const { return weight; }
  __device__ __forceinline__ Row row(int32_t index) const { return index; }
  template <int kSliceElements>
  __device__ __forceinline__ Depth at_depth(int32_t slice, int32_t offset) const {
    return slices.at<kSliceElements>(slice, offset);
  }
  __device__ __forceinline__ const T* find(Row row, const Depth& at) const {
    if (row >= problem.K || at.channel >= problem.C) return nullptr;
    const int64_t tap = (int64_t(row) * problem.R + at.r) * problem.S + at.s;
    return weight + tap * problem.C + at.channel;
  }
};

}  // namespace rnc::reference
