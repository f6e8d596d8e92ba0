// The filters of a grouped convolution whose groups are packed: to the GEMM every super-group of 32
// channels and 32 filters is one group, in which an element is zero unless its channel and its
// filter are of the same real group. Nothing is stored that way; the weight is read in place.
//
// These zeros are multiplied: an infinity or a NaN in an activation reaches the groups beside it.
//
// A real group has 4, 8, 16 or 32 channels and as many filters, so that a piece of 4 never lies in
// two groups.
#pragma once

#include "kernels/conv/operands.cuh"

namespace rnc {

// weight [K, R, S, C/groups] seen as [32, R S 32]: the filter operand of fprop.
template <class T>
struct PackedFilterRows {
  using Element = T;
  using Prologue = Identity<T>;
  struct Row {
    const T* filter;        // null outside
    int32_t first_channel;  // of its group, within the super-group
  };
  struct Depth {
    int32_t tap_offset, channel;
    bool valid;
  };
  static constexpr bool kDepthIsContiguous = true;
  static constexpr int kPieceBytes = 4 * sizeof(T);

  const T* weight;
  Prologue prologue;
  int32_t group_channels;
  int64_t filter_size;

  PackedFilterRows(const void* weight, const Conv2dProblem& problem)
      : weight(static_cast<const T*>(weight)),
        group_channels(problem.channels_per_group()),
        filter_size(problem.filter_size()) {}

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t group) const {
    const int64_t filter = int64_t(group) * kPackedChannels + n;
    return {n < count ? weight + filter * filter_size : nullptr, n & -group_channels};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t /*group*/) const {
    // [R S 32] -> [R S, 32]
    return {k / kPackedChannels * group_channels, k % kPackedChannels, k < count};
  }
  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return weight; }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    const uint32_t channel = uint32_t(depth.channel - row.first_channel);
    const bool same_group = channel < uint32_t(group_channels);
    return row.filter && depth.valid && same_group ? row.filter + depth.tap_offset + channel
                                                   : nullptr;
  }
  __device__ __forceinline__ int32_t channel(const Depth&, int32_t /*group*/) const { return 0; }
};

// weight [K, R, S, C/groups] seen as [32, taps_h taps_w 32], of the taps that a class of dgrad's
// rows sees: the filter operand of dgrad.
template <class T>
struct PackedFilterColumns {
  using Element = T;
  using Prologue = Identity<T>;
  struct Row {
    int32_t channel;
    bool valid;
  };
  struct Depth {
    const T* filter;        // tap included; null outside
    int32_t first_channel;  // of its group, within the super-group
  };
  static constexpr bool kDepthIsContiguous = false;
  static constexpr int kPieceBytes = 4 * sizeof(T);

  FilterColumns<T> filters;  // every one with the channels of its own group
  Prologue prologue;
  int32_t group_channels;

  PackedFilterColumns(const void* weight, const GradientClass& at, const Conv2dProblem& problem)
      : filters(weight, at, problem, kPackedChannels),
        group_channels(problem.channels_per_group()) {}

  __device__ __forceinline__ Row row(int32_t n, int32_t count, int32_t /*group*/) const {
    return {n, n < count};
  }
  __device__ __forceinline__ Depth depth(int32_t k, int32_t count, int32_t group) const {
    // [taps_h taps_w 32] -> [taps_h taps_w, 32]
    return {filters.depth(k, count, group).filter, k % kPackedChannels & -group_channels};
  }
  // Some readable address: where a copy of nothing points.
  __device__ __forceinline__ const T* base() const { return filters.base(); }

  __device__ __forceinline__ const T* find(const Row& row, const Depth& depth) const {
    const uint32_t channel = uint32_t(row.channel - depth.first_channel);
    const bool same_group = channel < uint32_t(group_channels);
    return row.valid && depth.filter && same_group ? depth.filter + channel : nullptr;
  }
  __device__ __forceinline__ int32_t channel(const Row&, int32_t /*group*/) const { return 0; }
};

}  // namespace rnc
