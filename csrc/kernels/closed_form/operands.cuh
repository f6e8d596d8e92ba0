// Operands of the float64 products of batch norm in closed form, as they are brought from global
// memory into slices of shared memory: filters, and a covariance that is never stored. An operand's
// Load is what a thread holds of it: fetch(slice) brings its share of a slice into registers,
// put(slice) converts it and stores it.
#pragma once

#include "kernels/closed_form/closed_form_params.h"
#include "ptx/memory.cuh"
#include "tile/double_tile.cuh"
#include "tile/element_group.cuh"

namespace rnc {

template <class T>
__device__ __forceinline__ Vec<T, 2> load_pair(const T* p, bool aligned) {
  if (aligned) return ptx::load_global_input(reinterpret_cast<const Vec<T, 2>*>(p));
  return {ptx::load_global_input(p), ptx::load_global_input(p + 1)};
}

template <class T>
__device__ __forceinline__ void store_pair(T* p, const Vec<T, 2>& pair, bool aligned) {
  if (aligned) {
    ptx::store_global(reinterpret_cast<Vec<T, 2>*>(p), pair);
  } else {
    ptx::store_global(p, pair.v[0]);
    ptx::store_global(p + 1, pair.v[1]);
  }
}

// All rows.
__device__ __forceinline__ double load_rows(const RowCount& rows) {
  return rows.of_all ? ptx::load_global_input(rows.of_all) : rows.own;
}

// What sums over all rows are multiplied by for a mean; that of no rows is zero.
__device__ __forceinline__ double inverse_rows(const RowCount& rows) {
  return 1.0 / max(load_rows(rows), 1.0);
}

// Lines that are contiguous, in pairs: a warp takes all 64 lines of one step of depth.
struct PairedLines {
  static constexpr int kWarps = DoubleTile::kThreads / 32;
  static constexpr int kSteps = DoubleTile::kDepth / kWarps;  // that a thread takes
  static_assert(DoubleTile::kLines == 2 * 32);

  static __device__ __forceinline__ int line() { return int(threadIdx.x) % 32 * 2; }
  static __device__ __forceinline__ int depth(int i) { return int(threadIdx.x) / 32 + i * kWarps; }

  static __device__ __forceinline__ void put(DoubleSlice& slice, int i, double first,
                                             double second) {
    ptx::store_shared(reinterpret_cast<Vec<double, 2>*>(&slice.at(depth(i), line())),
                      {first, second});
  }
};

// W with filters as lines, channels as depth.
template <class T>
struct FilterLines {
  using Element = T;
  const T* weight;  // [K][C]
  int32_t K, C;
  bool aligned;

  class Load {
   public:
    __device__ __forceinline__ Load(const FilterLines& of, int32_t first_line) : of_(of) {
      const int32_t filter = first_line + line();
      filter_ = filter < of.K ? of.weight + int64_t(filter) * of.C : nullptr;
    }
    __device__ __forceinline__ void fetch(int slice) {
      const int32_t channel = slice * DoubleTile::kDepth + depth();
      if (filter_ && channel < of_.C) {
        group_.load(filter_, channel, kGroupElements, of_.aligned);
      } else {
        group_.gate(0);
      }
    }
    __device__ __forceinline__ void put(DoubleSlice& slice) const {
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) {
        slice.at(depth() + e, line()) = double(group_.widened(e));
      }
    }

   private:
    // Neighbouring lanes store to neighbouring lines.
    static __device__ __forceinline__ int line() { return int(threadIdx.x) % DoubleTile::kLines; }
    static __device__ __forceinline__ int depth() {
      return int(threadIdx.x) / DoubleTile::kLines * kGroupElements;
    }
    static_assert(DoubleTile::kThreads / DoubleTile::kLines * kGroupElements == DoubleTile::kDepth);

    const FilterLines& of_;
    const T* filter_;
    ElementGroup<T> group_;
  };
};

// What a batch norm makes of the gradient behind it, by filter: s1, s2 and s3 / s1 (see
// ClosedFormBackwardFinalizeParams).
template <class Acc>
struct GradientFactors {
  const double* invstd;
  const Acc* gamma;
  const double* dgamma_of_all;
  const double* sums_of_all;
  RowCount rows;

  __device__ __forceinline__ double s1(int32_t filter) const {
    const double invstd_of = ptx::load_global_input(invstd + filter);
    return gamma ? invstd_of * double(ptx::load_global_input(gamma + filter)) : invstd_of;
  }
  __device__ __forceinline__ double s2(int32_t filter, double inverse) const {
    return -s1(filter) * ptx::load_global_input(invstd + filter) *
           ptx::load_global_input(dgamma_of_all + filter) * inverse;
  }
  __device__ __forceinline__ double mean_gradient(int32_t filter, double inverse) const {
    return ptx::load_global_input(sums_of_all + filter) * inverse;
  }
};

// W with channels as lines, filters as depth; with `kScaled` each filter is multiplied by its s2.
template <class T, bool kScaled>
struct ChannelLines {
  using Element = T;
  const T* weight;  // [K][C]
  int32_t K, C;
  bool aligned;
  GradientFactors<AccOf<T>> factors;

  class Load {
   public:
    __device__ __forceinline__ Load(const ChannelLines& of, int32_t first_line)
        : of_(of), channel_(first_line + PairedLines::line()) {
      if constexpr (kScaled) inverse_ = inverse_rows(of.factors.rows);
    }
    __device__ __forceinline__ void fetch(int slice) {
      RNC_UNROLL
      for (int i = 0; i < PairedLines::kSteps; ++i) {
        const int32_t filter = slice * DoubleTile::kDepth + PairedLines::depth(i);
        const bool valid = filter < of_.K && channel_ < of_.C;
        pairs_[i] = {};
        if (valid)
          pairs_[i] = load_pair(of_.weight + int64_t(filter) * of_.C + channel_, of_.aligned);
        if constexpr (kScaled) scales_[i] = valid ? of_.factors.s2(filter, inverse_) : 0.0;
      }
    }
    __device__ __forceinline__ void put(DoubleSlice& slice) const {
      RNC_UNROLL
      for (int i = 0; i < PairedLines::kSteps; ++i) {
        double first = double(widen(pairs_[i].v[0])), second = double(widen(pairs_[i].v[1]));
        if constexpr (kScaled) first *= scales_[i], second *= scales_[i];
        PairedLines::put(slice, i, first, second);
      }
    }

   private:
    const ChannelLines& of_;
    int32_t channel_;
    double inverse_;
    double scales_[PairedLines::kSteps];
    Vec<T, 2> pairs_[PairedLines::kSteps];
  };
};

// covariance = gram - (n m + e) m' - m e', symmetric: lines and depth are channels.
struct Covariance {
  const double* gram;    // [C][C]
  const double* mean;    // [C], or sums that are yet to be divided by the rows
  const double* excess;  // [C] or null (0)
  int32_t C;
  bool divides;
  bool aligned;
  RowCount rows;

  class Load {
   public:
    __device__ __forceinline__ Load(const Covariance& of, int32_t first_line)
        : of_(of),
          channel_(first_line + PairedLines::line()),
          rows_(load_rows(of.rows)),
          factor_(of.divides ? inverse_rows(of.rows) : 1.0) {
      if (channel_ >= of.C) return;
      mean_ = load_pair(of.mean + channel_, of.aligned);
      RNC_UNROLL
      for (double& mean : mean_.v) mean *= factor_;
      if (of.excess) excess_ = load_pair(of.excess + channel_, of.aligned);
    }
    __device__ __forceinline__ void fetch(int slice) {
      RNC_UNROLL
      for (int i = 0; i < PairedLines::kSteps; ++i) {
        const int32_t row = slice * DoubleTile::kDepth + PairedLines::depth(i);
        const bool valid = row < of_.C && channel_ < of_.C;
        pairs_[i] = {};
        means_[i] = excesses_[i] = 0;
        if (!valid) continue;
        pairs_[i] = load_pair(of_.gram + int64_t(row) * of_.C + channel_, of_.aligned);
        means_[i] = ptx::load_global_input(of_.mean + row);
        if (of_.excess) excesses_[i] = ptx::load_global_input(of_.excess + row);
      }
    }
    __device__ __forceinline__ void put(DoubleSlice& slice) const {
      RNC_UNROLL
      for (int i = 0; i < PairedLines::kSteps; ++i) {
        const double mean = means_[i] * factor_, sum = rows_ * mean + excesses_[i];
        double centred[2];
        RNC_UNROLL
        for (int c = 0; c < 2; ++c) {
          centred[c] = pairs_[i].v[c] - sum * mean_.v[c] - mean * excess_.v[c];
        }
        PairedLines::put(slice, i, centred[0], centred[1]);
      }
    }

   private:
    const Covariance& of_;
    int32_t channel_;
    double rows_, factor_;
    Vec<double, 2> mean_ = {}, excess_ = {};  // of the thread's lines
    Vec<double, 2> pairs_[PairedLines::kSteps];
    double means_[PairedLines::kSteps], excesses_[PairedLines::kSteps];
  };
};

}  // namespace rnc
