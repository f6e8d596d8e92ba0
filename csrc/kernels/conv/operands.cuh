// Operands of the implicit GEMM: how an element (row, depth) of a matrix that is never stored is
// found in a tensor.
//
// An operand answers row(i) and depth(k) with whatever part of the address depends on that index
// alone, find(row, depth) with the element's address, null where the operand is 0, and base() with
// where the tensor starts.
// kDepthIsContiguous says along which index neighbouring elements are neighbours in memory: as far
// as the channels of a group go, so that main loops may take pieces of as many as divide them.
// kPieceBytes: how much of a line a copy may take at once, where the operand is whole and aligned.
#pragma once

#include "common/fast_divmod.h"
#include "kernels/conv/window.h"
#include "kernels/fusion/prologue.cuh"

namespace rnc {

// Says so to the compiler, which then keeps no null pointers where a predicate will do.
template <class T>
__device__ __forceinline__ const T* never_null(const T* element) {
  RNC_ASSUME(element != nullptr);
  return element;
}

// Row of a window matrix: the image position (h, w) under tap (0, 0), and its element, group
// included. Outside the matrix h is far outside the image.
struct PixelPosition {
  static constexpr int32_t kOutside = INT32_MIN / 2;
  int64_t offset;
  int32_t h, w;
};

// Depth of a window matrix: displacement of the tap, channel, and what they add to the element.
// Outside the matrix h is far outside the image.
struct TapPosition {
  int64_t offset;
  int32_t h, w;
  int32_t channel;
};

// An image [N, H, W, C] seen through a window as [N positions_h positions_w, taps_h taps_w
// C/groups]: the activation of fprop and wgrad, the gradient of dgrad.
template <class T, class PrologueType>
struct WindowRows {
  using Element = T;
  using Prologue = PrologueType;
  using Row = PixelPosition;
  using Depth = TapPosition;
  static constexpr bool kDepthIsContiguous = true;
  static constexpr int kPieceBytes = 16;

  const T* image;
  Prologue prologue;
  WindowAxis axis_h, axis_w;
  int32_t N, C, channels_per_group;
  FastDivmod by_positions_w, by_positions_h, by_taps_w, by_channels;

  WindowRows(const void* image, Prologue prologue, const WindowAxis& h, const WindowAxis& w,
             int32_t N, int32_t C, int32_t channels_per_group)
      : image(static_cast<const T*>(image)),
        prologue(prologue),
        axis_h(h),
        axis_w(w),
        N(N),
        C(C),
        channels_per_group(channels_per_group),
        by_positions_w(w.positions),
        by_positions_h(h.positions),
        by_taps_w(std::max(w.taps, 1)),
        by_channels(channels_per_group) {}

  static WindowRows of_input(const void* x, Prologue prologue, const Conv2dProblem& p) {
    return WindowRows(x, prologue, fprop_axis(p.H, p.P, p.stride_h, p.pad_h, p.R, p.dilation_h),
                      fprop_axis(p.W, p.Q, p.stride_w, p.pad_w, p.S, p.dilation_w), p.N, p.C,
                      p.channels_per_group());
  }
  static WindowRows of_gradient(const void* dy, Prologue prologue, const GradientClass& at,
                                const Conv2dProblem& p) {
    return WindowRows(dy, prologue, at.h.window, at.w.window, p.N, p.K, p.filters_per_group());
  }

  // Whether the channels, and the prologue's, come in whole, aligned 16 bytes.
  bool is_in_pieces() const {
    return is_vector_aligned(image) && rows_are_vectors<T>(C) && prologue.is_aligned();
  }

  __device__ __forceinline__ Row row(int32_t m, int32_t count, int32_t group) const {
    // [N positions_h positions_w] -> [N, positions_h, positions_w]
    int32_t i, j;
    const int32_t n = by_positions_h.divide(by_positions_w.divide(m, j), i);
    return window(n, i, j, group, m < count);
  }
  // The window at position (i, j) of image n; outside the matrix unless it exists.
  __device__ __forceinline__ Row window(int32_t n, int32_t i, int32_t j, int32_t group,
                                        bool exists) const {
    const int32_t h = i * axis_h.stride + axis_h.origin, w = j * axis_w.stride + axis_w.origin;
    const int64_t pixel = (int64_t(n) * axis_h.size + h) * axis_w.size + w;
    return {pixel * C + int64_t(group) * channels_per_group, exists ? h : PixelPosition::kOutside,
            w};
  }

  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [taps_h taps_w C/groups] -> [taps_h, taps_w, C/groups]
    int32_t s, c;
    const int32_t r = by_taps_w.divide(by_channels.divide(k, c), s);
    const Depth at = tap(r, s);
    return {at.offset + c, k < count ? at.h : PixelPosition::kOutside, at.w, c};
  }
  // The first channel under tap (r, s).
  __device__ __forceinline__ Depth tap(int32_t r, int32_t s) const {
    const int32_t h = r * axis_h.tap_shift, w = s * axis_w.tap_shift;
    return {(int64_t(h) * axis_w.size + w) * C, h, w, 0};
  }

  __device__ __forceinline__ const T* base() const { return image; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    const uint32_t h = uint32_t(row.h + depth.h), w = uint32_t(row.w + depth.w);
    const bool inside = h < uint32_t(axis_h.size) && w < uint32_t(axis_w.size);
    const T* element = never_null(image + row.offset + depth.offset);
    return inside ? element : nullptr;
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
  static constexpr int kPieceBytes = 16;

  const T* x;
  Prologue prologue;
  int32_t N, H, W, C, channels_per_group;
  int32_t stride_h, stride_w;
  FastDivmod by_Q, by_P;

  // Pixels (p stride, q stride) of N images of H x W pixels with C channels.
  PixelRows(const void* x, Prologue prologue, int32_t N, int32_t H, int32_t W, int32_t C,
            int32_t channels_per_group, int32_t P, int32_t Q, int32_t stride_h, int32_t stride_w)
      : x(static_cast<const T*>(x)),
        prologue(prologue),
        N(N),
        H(H),
        W(W),
        C(C),
        channels_per_group(channels_per_group),
        stride_h(stride_h),
        stride_w(stride_w),
        by_Q(Q),
        by_P(P) {}

  static PixelRows of_input(const void* x, Prologue prologue, const Conv2dProblem& p) {
    return PixelRows(x, prologue, p.N, p.H, p.W, p.C, p.channels_per_group(), p.P, p.Q, p.stride_h,
                     p.stride_w);
  }
  static PixelRows of_output(const void* dy, Prologue prologue, const Conv2dProblem& p) {
    return PixelRows(dy, prologue, p.N, p.P, p.Q, p.K, p.filters_per_group(), p.P, p.Q, 1, 1);
  }

  // Whether the channels, and the prologue's, come in whole, aligned 16 bytes.
  bool is_in_pieces() const {
    return is_vector_aligned(x) && rows_are_vectors<T>(C) && prologue.is_aligned();
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

  __device__ __forceinline__ const T* base() const { return x; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    return row.pixel && depth.valid ? row.pixel + depth.channel : nullptr;
  }

  __device__ __forceinline__ int32_t channel(const Depth& depth, int32_t group) const {
    return group * channels_per_group + depth.channel;
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
  static constexpr int kPieceBytes = 16;

  const T* weight;
  Prologue prologue;
  int32_t filters, filters_per_group;
  int64_t filter_size;

  FilterRows(const void* weight, int32_t filters, int32_t groups, int64_t filter_size)
      : weight(static_cast<const T*>(weight)),
        filters(filters),
        filters_per_group(filters / groups),
        filter_size(filter_size) {}
  FilterRows(const void* weight, const Conv2dProblem& problem)
      : FilterRows(weight, problem.K, problem.groups, problem.filter_size()) {}

  // Whether the filters come in whole, aligned 16 bytes.
  bool is_in_pieces() const {
    return is_vector_aligned(weight) && rows_are_vectors<T>(filter_size);
  }

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t group) const {
    const int64_t filter = int64_t(group) * filters_per_group + n;
    return {n < count ? weight + filter * filter_size : nullptr};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    return {k, k < count};
  }
  __device__ __forceinline__ const T* base() const { return weight; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    return row.filter && depth.valid ? never_null(row.filter + depth.offset) : nullptr;
  }
  __device__ __forceinline__ int32_t channel(const Depth&, int32_t /*group*/) const { return 0; }
};

// weight [K, R, S, C/groups] seen as [C/groups, taps_h taps_w K/groups], of the taps that a class
// of dgrad's rows sees: the filter operand of dgrad, used in place.
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
  static constexpr int kPieceBytes = 16;

  const T* weight;  // at the first tap
  Prologue prologue;
  int32_t filters, filters_per_group, channels_per_group;
  int32_t row_step, tap_step;  // elements between neighbouring taps, down and along
  int64_t filter_size;
  FastDivmod by_filters, by_taps_w;
  int32_t matrices = 1;  // of 1x1 filters that lie one behind the other: their sum is meant

  FilterColumns(const void* weight, const GradientClass& at, const Conv2dProblem& problem)
      : FilterColumns(weight, at, problem, problem.filters_per_group()) {}
  // With as many filters in a group of the GEMM.
  FilterColumns(const void* weight, const GradientClass& at, const Conv2dProblem& problem,
                int32_t filters_per_group)
      : weight(static_cast<const T*>(weight) +
               (int64_t(at.h.first_tap) * problem.S + at.w.first_tap) *
                   problem.channels_per_group()),
        filters(problem.K),
        filters_per_group(filters_per_group),
        channels_per_group(problem.channels_per_group()),
        row_step(at.h.tap_step * problem.S * problem.channels_per_group()),
        tap_step(at.w.tap_step * problem.channels_per_group()),
        filter_size(problem.filter_size()),
        by_filters(filters_per_group),
        by_taps_w(std::max(at.w.window.taps, 1)) {}

  RNC_HOST_DEVICE int64_t matrix_size() const { return int64_t(filters) * filter_size; }

  // Whether the channels come in whole, aligned 16 bytes.
  bool is_in_pieces() const {
    return is_vector_aligned(weight) && rows_are_vectors<T>(channels_per_group);
  }

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t /*group*/) const {
    return {n, n < count};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t group) const {
    // [taps_h taps_w K] -> [taps_h, taps_w, K]
    int32_t filter, s;
    const int32_t r = by_taps_w.divide(by_filters.divide(k, filter), s);
    const int64_t offset = (int64_t(group) * filters_per_group + filter) * filter_size +
                           int64_t(r) * row_step + int64_t(s) * tap_step;
    return {k < count ? weight + offset : nullptr};
  }
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
  static constexpr int kPieceBytes = Operand::kPieceBytes;

  Operand operand;
  Prologue prologue;

  explicit Transposed(const Operand& operand) : operand(operand), prologue(operand.prologue) {}

  bool is_in_pieces() const { return operand.is_in_pieces(); }

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

// The second tensor's element beside an element of the operand's.
template <class Operand>
__device__ __forceinline__ const typename Operand::Element* companion_of(
    const Operand& operand, const typename Operand::Element* element) {
  return operand.prologue.companion + (element - operand.base());
}

}  // namespace rnc
