// Operands of the implicit GEMM: how an element (row, depth) of a matrix that is never stored is
// found in a tensor.
//
// An operand answers row(i) and depth(k) with whatever part of the address depends on that index
// alone, and find(row, depth) with the element's address, null where the operand is 0.
// kDepthIsContiguous says along which index neighbouring elements are neighbours in memory: as far
// as the channels of a group go, so that main loops may take pieces of as many as divide them.
#pragma once

#include "common/fast_divmod.h"
#include "kernels/conv/conv_problem.h"
#include "kernels/fusion/prologue.cuh"

namespace rnc {

// Row of a pixel matrix: [N P Q] -> the image position (h, w) that the filter's first tap reads,
// and its element, group included. Outside the matrix h is far outside the image.
struct PixelPosition {
  static constexpr int32_t kOutside = INT32_MIN / 2;
  int64_t offset;
  int32_t h, w;
};

// Depth of an im2col matrix: [R S C] -> displacement (r, s), channel, and what they add to the
// element. Outside the matrix h is far outside the image.
struct TapPosition {
  int64_t offset;
  int32_t h, w;
  int32_t channel;
};

// x [N, H, W, C] seen as [N P Q, R S C/groups]: the activation operand of fprop.
template <class T, class PrologueType>
struct Im2colActivation {
  using Element = T;
  using Prologue = PrologueType;
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
    const int32_t h = p * problem.stride_h - problem.pad_h;
    const int32_t w = q * problem.stride_w - problem.pad_w;
    const int64_t pixel = (int64_t(n) * problem.H + h) * problem.W + w;
    return {pixel * problem.C + int64_t(group) * channels_per_group,
            m < count ? h : PixelPosition::kOutside, w};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [R S C] -> [R, S, C]
    int32_t s, c;
    const int32_t r = by_S.divide(by_channels.divide(k, c), s);
    const int32_t h = r * problem.dilation_h, w = s * problem.dilation_w;
    return {(int64_t(h) * problem.W + w) * problem.C + c, k < count ? h : PixelPosition::kOutside,
            w, c};
  }

  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return x; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    const uint32_t h = uint32_t(row.h + depth.h), w = uint32_t(row.w + depth.w);
    const bool inside = h < uint32_t(problem.H) && w < uint32_t(problem.W);
    return inside ? x + row.offset + depth.offset : nullptr;
  }

  __device__ __forceinline__ int32_t channel(const Depth& depth, int32_t group) const {
    return group * channels_per_group + depth.channel;
  }
};

// x [N, H, W, C] seen as [N P Q, C/groups]: rows are (sampled) pixels, no im2col. Also dy with
// stride 1.
template <class T, class PrologueType>
struct PixelRows {
  using Element = T;
  using Prologue = PrologueType;
  struct Row {
    const T* pixel;  // null outside
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
    return {m < count ? x + pixel * C + int64_t(group) * channels_per_group : nullptr};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    return {k, k < count};
  }

  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return x; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    return row.pixel && depth.valid ? row.pixel + depth.channel : nullptr;
  }

  __device__ __forceinline__ int32_t channel(const Depth& depth, int32_t group) const {
    return group * channels_per_group + depth.channel;
  }
};

// dy [N, P, Q, K] seen as [N H W, R S K/groups]: the gradient operand of dgrad. Tap (r, s) of input
// pixel (h, w) reads p = (h + pad - r dilation) / stride where that is a whole number inside the
// output.
template <class T>
struct Im2colGradient {
  using Element = T;
  using Prologue = Identity<T>;
  struct Row {
    const T* image;  // group included
    int32_t h, w;
  };
  using Depth = TapPosition;
  static constexpr bool kDepthIsContiguous = true;

  const T* dy;
  Prologue prologue;
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
    const int64_t image = int64_t(n) * problem.P * problem.Q * problem.K;
    return {dy + image + int64_t(group) * filters_per_group,
            m < count ? h + problem.pad_h : PixelPosition::kOutside, w + problem.pad_w};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [R S K] -> [R, S, K]
    int32_t s, filter;
    const int32_t r = by_S.divide(by_filters.divide(k, filter), s);
    return {filter, k < count ? r * problem.dilation_h : -PixelPosition::kOutside,
            s * problem.dilation_w, filter};
  }

  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return dy; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    const int32_t h = row.h - depth.h, w = row.w - depth.w;
    if (h < 0 || w < 0) return nullptr;
    int32_t hole_h, hole_w;
    const int32_t p = by_stride_h.divide(h, hole_h), q = by_stride_w.divide(w, hole_w);
    if (hole_h != 0 || hole_w != 0 || p >= problem.P || q >= problem.Q) return nullptr;
    return row.image + (int64_t(p) * problem.Q + q) * problem.K + depth.channel;
  }

  __device__ __forceinline__ int32_t channel(const Depth& depth, int32_t group) const {
    return group * filters_per_group + depth.channel;
  }
};

// weight [K, R, S, C/groups] seen as [K/groups, R S C/groups]: the filter operand of fprop.
template <class T>
struct FilterRows {
  using Element = T;
  using Prologue = Identity<T>;
  struct Row {
    const T* filter;  // null outside
  };
  struct Depth {
    int32_t offset;
    bool valid;
  };
  static constexpr bool kDepthIsContiguous = true;

  const T* weight;
  Prologue prologue;
  int32_t filters_per_group;
  int64_t filter_size;

  FilterRows(const void* weight, int32_t filters_per_group, int64_t filter_size)
      : weight(static_cast<const T*>(weight)),
        filters_per_group(filters_per_group),
        filter_size(filter_size) {}

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t group) const {
    const int64_t filter = int64_t(group) * filters_per_group + n;
    return {n < count ? weight + filter * filter_size : nullptr};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    return {k, k < count};
  }
  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return weight; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    return row.filter && depth.valid ? row.filter + depth.offset : nullptr;
  }
  __device__ __forceinline__ int32_t channel(const Depth&, int32_t /*group*/) const { return 0; }
};

// weight [K, R, S, C/groups] seen as [C/groups, R S K/groups]: the filter operand of dgrad, used in
// place.
template <class T>
struct FilterColumns {
  using Element = T;
  using Prologue = Identity<T>;
  struct Row {
    int32_t channel;
    bool valid;
  };
  struct Depth {
    const T* filter;  // tap included; null outside
  };
  static constexpr bool kDepthIsContiguous = false;

  const T* weight;
  Prologue prologue;
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
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t group) const {
    // [R S K] -> tap r S + s, filter
    int32_t filter;
    const int32_t tap = by_filters.divide(k, filter);
    const int64_t offset = (int64_t(group) * filters_per_group + filter) * filter_size +
                           int64_t(tap) * channels_per_group;
    return {k < count ? weight + offset : nullptr};
  }
  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return weight; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    return row.valid && depth.filter ? depth.filter + row.channel : nullptr;
  }
  __device__ __forceinline__ int32_t channel(const Row&, int32_t /*group*/) const { return 0; }
};

// The same matrix with rows and depth exchanged: wgrad reduces over pixels, which are the rows of
// the other passes.
template <class Operand>
struct Transposed {
  using Element = typename Operand::Element;
  using Prologue = typename Operand::Prologue;
  using Row = typename Operand::Depth;
  using Depth = typename Operand::Row;
  static constexpr bool kDepthIsContiguous = !Operand::kDepthIsContiguous;

  Operand operand;
  Prologue prologue;

  explicit Transposed(const Operand& operand) : operand(operand), prologue(operand.prologue) {}

  __device__ __forceinline__ Row row(int32_t i, int32_t count, int32_t group) const {
    return operand.depth(i, count, group);
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t group) const {
    return operand.row(k, count, group);
  }
  __device__ __forceinline__ const Element* base() const { return operand.base(); }

  __device__ __forceinline__ const Element* find(const Row& row, const Depth& depth) const {
    return operand.find(depth, row);
  }
  __device__ __forceinline__ int32_t channel(const Row& row, int32_t group) const {
    return operand.channel(row, group);
  }
};

// The index on which the channel of an element depends.
template <class Operand>
__device__ __forceinline__ int32_t channel_of(const Operand& operand,
                                              const typename Operand::Row& row,
                                              const typename Operand::Depth& depth, int32_t group) {
  if constexpr (Operand::kDepthIsContiguous) {
    return operand.channel(depth, group);
  } else {
    return operand.channel(row, group);
  }
}

}  // namespace rnc
