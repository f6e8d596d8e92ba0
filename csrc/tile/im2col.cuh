// Operands of the implicit GEMM: how an element (row, depth) of a matrix that is never stored is
// found in a tensor.
//
// An operand answers row(i) and depth(k) with whatever part of the address depends on that index
// alone, and load(row, depth) with the element; out-of-range elements are 0. kDepthIsContiguous
// says along which index neighbouring elements are neighbours in memory, so that neighbouring lanes
// walk that way.
#pragma once

#include "common/dtype.h"
#include "common/fast_divmod.h"
#include "kernels/conv/conv_problem.h"
#include "ptx/memory.cuh"

namespace rnc {

// Row of a pixel matrix: [N P Q] -> n, and the image position (h, w) that the filter's first tap
// reads.
struct PixelPosition {
  int64_t image;  // element offset of image n, group included
  int32_t h, w;
  bool valid;
};

// Depth of an im2col matrix: [R S C] -> displacement (r, s) and channel.
struct TapPosition {
  int32_t h, w;
  int32_t channel;
  bool valid;
};

// x [N, H, W, C] seen as [N P Q, R S C/groups]: the activation operand of fprop.
template <class T, class Prologue>
struct Im2colActivation {
  using Acc = AccOf<T>;
  using Row = PixelPosition;
  using Depth = TapPosition;
  static constexpr bool kDepthIsContiguous = true;

  const T* x;
  Prologue prologue;
  Conv2dProblem problem;
  int32_t channels_per_group;
  FastDivmod by_Q, by_P, by_S, by_channels;

  Im2colActivation(const void* x, Prologue prologue, const Conv2dProblem& problem)
      : x(static_cast<const T*>(x)),
        prologue(prologue),
        problem(problem),
        channels_per_group(problem.channels_per_group()),
        by_Q(problem.Q),
        by_P(problem.P),
        by_S(problem.S),
        by_channels(problem.channels_per_group()) {}

  __device__ __forceinline__ Row row(int32_t m, int32_t count, int32_t group) const {
    // [N P Q] -> [N, P, Q]
    int32_t p, q;
    const int32_t n = by_P.divide(by_Q.divide(m, q), p);
    return {int64_t(n) * problem.H * problem.W * problem.C + int64_t(group) * channels_per_group,
            p * problem.stride_h - problem.pad_h, q * problem.stride_w - problem.pad_w, m < count};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [R S C] -> [R, S, C]
    int32_t s, c;
    const int32_t r = by_S.divide(by_channels.divide(k, c), s);
    return {r * problem.dilation_h, s * problem.dilation_w, c, k < count};
  }

  __device__ __forceinline__ Acc load(const Row& row, const Depth& depth, int32_t group) const {
    const int32_t h = row.h + depth.h, w = row.w + depth.w;
    const bool valid =
        row.valid && depth.valid && h >= 0 && h < problem.H && w >= 0 && w < problem.W;
    const int64_t offset = row.image + (int64_t(h) * problem.W + w) * problem.C + depth.channel;
    return prologue.apply(x, offset, group * channels_per_group + depth.channel, valid);
  }
};

// x [N, H, W, C] seen as [N P Q, C/groups]: rows are (sampled) pixels, no im2col. Also dy with
// stride 1.
template <class T, class Prologue>
struct PixelRows {
  using Acc = AccOf<T>;
  struct Row {
    int64_t offset;
    bool valid;
  };
  struct Depth {
    int32_t channel;
    bool valid;
  };
  static constexpr bool kDepthIsContiguous = true;

  const T* x;
  Prologue prologue;
  int32_t H, W, C, channels_per_group;
  int32_t stride_h, stride_w;
  FastDivmod by_Q, by_P;

  // Pixels (p stride, q stride) of images of H x W pixels with C channels.
  PixelRows(const void* x, Prologue prologue, int32_t H, int32_t W, int32_t C,
            int32_t channels_per_group, int32_t P, int32_t Q, int32_t stride_h, int32_t stride_w)
      : x(static_cast<const T*>(x)),
        prologue(prologue),
        H(H),
        W(W),
        C(C),
        channels_per_group(channels_per_group),
        stride_h(stride_h),
        stride_w(stride_w),
        by_Q(Q),
        by_P(P) {}

  static PixelRows of_input(const void* x, Prologue prologue, const Conv2dProblem& p) {
    return PixelRows(x, prologue, p.H, p.W, p.C, p.channels_per_group(), p.P, p.Q, p.stride_h,
                     p.stride_w);
  }
  static PixelRows of_output(const void* dy, const Conv2dProblem& p) {
    return PixelRows(dy, Prologue{}, p.P, p.Q, p.K, p.filters_per_group(), p.P, p.Q, 1, 1);
  }

  __device__ __forceinline__ Row row(int32_t m, int32_t count, int32_t group) const {
    // [N P Q] -> [N, P, Q] -> pixel (p stride, q stride)
    int32_t p, q;
    const int32_t n = by_P.divide(by_Q.divide(m, q), p);
    const int64_t pixel = (int64_t(n) * H + p * stride_h) * W + q * stride_w;
    return {pixel * C + int64_t(group) * channels_per_group, m < count};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    return {k, k < count};
  }

  __device__ __forceinline__ Acc load(const Row& row, const Depth& depth, int32_t group) const {
    return prologue.apply(x, row.offset + depth.channel, group * channels_per_group + depth.channel,
                          row.valid && depth.valid);
  }
};

// dy [N, P, Q, K] seen as [N H W, R S K/groups]: the gradient operand of dgrad. Tap (r, s) of input
// pixel (h, w) reads p = (h + pad - r dilation) / stride where that is a whole number inside the
// output.
template <class T>
struct Im2colGradient {
  using Acc = AccOf<T>;
  using Row = PixelPosition;
  using Depth = TapPosition;
  static constexpr bool kDepthIsContiguous = true;

  const T* dy;
  Conv2dProblem problem;
  int32_t filters_per_group;
  FastDivmod by_W, by_H, by_S, by_filters, by_stride_h, by_stride_w;

  Im2colGradient(const void* dy, const Conv2dProblem& problem)
      : dy(static_cast<const T*>(dy)),
        problem(problem),
        filters_per_group(problem.filters_per_group()),
        by_W(problem.W),
        by_H(problem.H),
        by_S(problem.S),
        by_filters(problem.filters_per_group()),
        by_stride_h(problem.stride_h),
        by_stride_w(problem.stride_w) {}

  __device__ __forceinline__ Row row(int32_t m, int32_t count, int32_t group) const {
    // [N H W] -> [N, H, W]
    int32_t h, w;
    const int32_t n = by_H.divide(by_W.divide(m, w), h);
    return {int64_t(n) * problem.P * problem.Q * problem.K + int64_t(group) * filters_per_group,
            h + problem.pad_h, w + problem.pad_w, m < count};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [R S K] -> [R, S, K]
    int32_t s, filter;
    const int32_t r = by_S.divide(by_filters.divide(k, filter), s);
    return {r * problem.dilation_h, s * problem.dilation_w, filter, k < count};
  }

  __device__ __forceinline__ Acc load(const Row& row, const Depth& depth, int32_t /*group*/) const {
    const int32_t h = row.h - depth.h, w = row.w - depth.w;
    if (!(row.valid && depth.valid && h >= 0 && w >= 0)) return Acc(0);
    int32_t hole_h, hole_w;
    const int32_t p = by_stride_h.divide(h, hole_h), q = by_stride_w.divide(w, hole_w);
    if (hole_h != 0 || hole_w != 0 || p >= problem.P || q >= problem.Q) return Acc(0);
    return Acc(widen(ptx::load_global_nc(dy + row.image + (int64_t(p) * problem.Q + q) * problem.K +
                                         depth.channel)));
  }
};

// A matrix in memory: element (row, depth) at base(group) + row * row_stride + offset(depth).
// weight [K, R, S, C/groups] seen as [K/groups, R S C/groups]: the filter operand of fprop.
template <class T>
struct FilterRows {
  using Acc = AccOf<T>;
  struct Row {
    int64_t offset;
    bool valid;
  };
  struct Depth {
    int32_t offset;
    bool valid;
  };
  static constexpr bool kDepthIsContiguous = true;

  const T* weight;
  int32_t filters_per_group;
  int64_t filter_size;

  FilterRows(const void* weight, int32_t filters_per_group, int64_t filter_size)
      : weight(static_cast<const T*>(weight)),
        filters_per_group(filters_per_group),
        filter_size(filter_size) {}

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t group) const {
    return {(int64_t(group) * filters_per_group + n) * filter_size, n < count};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    return {k, k < count};
  }
  __device__ __forceinline__ Acc load(const Row& row, const Depth& depth, int32_t /*group*/) const {
    if (!(row.valid && depth.valid)) return Acc(0);
    return Acc(widen(ptx::load_global_nc(weight + row.offset + depth.offset)));
  }
};

// weight [K, R, S, C/groups] seen as [C/groups, R S K/groups]: the filter operand of dgrad, used in
// place.
template <class T>
struct FilterColumns {
  using Acc = AccOf<T>;
  struct Row {
    int32_t channel;
    bool valid;
  };
  struct Depth {
    int64_t offset;
    bool valid;
  };
  static constexpr bool kDepthIsContiguous = false;

  const T* weight;
  int32_t filters_per_group, channels_per_group;
  int64_t filter_size;
  FastDivmod by_filters;

  FilterColumns(const void* weight, const Conv2dProblem& problem)
      : weight(static_cast<const T*>(weight)),
        filters_per_group(problem.filters_per_group()),
        channels_per_group(problem.channels_per_group()),
        filter_size(problem.filter_size()),
        by_filters(problem.filters_per_group()) {}

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t /*group*/) const {
    return {n, n < count};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [R S K] -> tap r S + s, filter
    int32_t filter;
    const int32_t tap = by_filters.divide(k, filter);
    return {int64_t(filter) * filter_size + int64_t(tap) * channels_per_group, k < count};
  }
  __device__ __forceinline__ Acc load(const Row& row, const Depth& depth, int32_t group) const {
    if (!(row.valid && depth.valid)) return Acc(0);
    const int64_t base = int64_t(group) * filters_per_group * filter_size;
    return Acc(widen(ptx::load_global_nc(weight + base + depth.offset + row.channel)));
  }
};

// The same matrix with rows and depth exchanged: wgrad reduces over pixels, which are the rows of
// the other passes.
template <class Operand>
struct Transposed {
  using Acc = typename Operand::Acc;
  using Row = typename Operand::Depth;
  using Depth = typename Operand::Row;
  static constexpr bool kDepthIsContiguous = !Operand::kDepthIsContiguous;

  Operand operand;

  __device__ __forceinline__ Row row(int32_t i, int32_t count, int32_t /*group*/) const {
    return operand.depth(i, count, 0);
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t group) const {
    return operand.row(k, count, group);
  }
  __device__ __forceinline__ Acc load(const Row& row, const Depth& depth, int32_t group) const {
    return operand.load(depth, row, group);
  }
};

}  // namespace rnc
