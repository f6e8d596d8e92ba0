// What becomes of the float64 products of batch norm in closed form. Sums are taken in a fixed
// order: within a thread, then lanes, then warps.
#pragma once

#include "kernels/closed_form/operands.cuh"

namespace rnc {

using DoubleSums = double[DoublePlace::kTiles][DoublePlace::kTiles][2];

// The sums of each filter over a tile of columns of W covariance (kClosedFormSums), into partials
// [column tiles][kClosedFormSums][K].
template <class T>
struct FilterSums {
  const T* weight;  // [K][C]
  int32_t K, C;
  bool aligned;
  const double* sums;     // [C]
  const AccOf<T>* shift;  // [C]
  RowCount rows;
  double* partials;

  struct Shared {
    double sums[kClosedFormSums][DoubleTile::kWarpsAcross][DoubleTile::kLines];
  };

  __device__ __forceinline__ void run(int32_t first_row, int32_t first_column,
                                      const DoubleSums& product, Shared& shared) const {
    // Multiply by the filters' elements, and add up the lane's.
    double totals[DoublePlace::kTiles][kClosedFormSums] = {};
    const double inverse = inverse_rows(rows);
    RNC_UNROLL
    for (int j = 0; j < DoublePlace::kTiles; ++j) {
      const int32_t column = first_column + DoublePlace::column(j);
      if (column >= C) continue;
      const Vec<double, 2> sum = load_pair(sums + column, aligned);
      const Vec<AccOf<T>, 2> shifts = load_pair(shift + column, aligned);
      RNC_UNROLL
      for (int i = 0; i < DoublePlace::kTiles; ++i) {
        const int32_t row = first_row + DoublePlace::row(i);
        if (row >= K) continue;
        const Vec<T, 2> w = load_pair(weight + int64_t(row) * C + column, aligned);
        RNC_UNROLL
        for (int c = 0; c < 2; ++c) {
          const double element = double(widen(w.v[c]));
          totals[i][0] += product[i][j][c] * element;
          totals[i][1] += element * (sum.v[c] * inverse);
          totals[i][2] += element * double(shifts.v[c]);
        }
      }
    }
    // Add up the lanes of a row.
    RNC_UNROLL
    for (int i = 0; i < DoublePlace::kTiles; ++i) {
      RNC_UNROLL
      for (int which = 0; which < kClosedFormSums; ++which) {
        double total = totals[i][which];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (threadIdx.x % 4 == 0) {
          shared.sums[which][DoublePlace::warp_column()][DoublePlace::row(i)] = total;
        }
      }
    }
    __syncthreads();
    // Add up the warps.
    const int32_t row = first_row + int32_t(threadIdx.x);
    if (threadIdx.x >= DoubleTile::kLines || row >= K) return;
    RNC_UNROLL
    for (int which = 0; which < kClosedFormSums; ++which) {
      double total = 0;
      RNC_UNROLL
      for (int warp = 0; warp < DoubleTile::kWarpsAcross; ++warp) {
        total += shared.sums[which][warp][threadIdx.x];
      }
      ptx::store_global(partials + (int64_t(blockIdx.x) * kClosedFormSums + which) * K + row,
                        total);
    }
  }
};

// The columns of a tile, each the sum of its rows.
struct ColumnTotals {
  double columns[DoubleTile::kWarpsAcross][DoubleTile::kLines];

  // Adds up what the lanes have of their columns; out: of the tile's first column.
  __device__ __forceinline__ void store(double (&totals)[DoublePlace::kTiles][2], int32_t limit,
                                        double* out) {
    RNC_UNROLL
    for (int j = 0; j < DoublePlace::kTiles; ++j) {
      RNC_UNROLL
      for (int c = 0; c < 2; ++c) {
        double total = totals[j][c];
        RNC_UNROLL
        for (int lanes = 4; lanes < 32; lanes *= 2) total += __shfl_xor_sync(~0u, total, lanes);
        if (threadIdx.x % 32 < 4) {
          columns[DoublePlace::warp_row()][DoublePlace::column(j) + c] = total;
        }
      }
    }
    __syncthreads();
    if (int32_t(threadIdx.x) >= min(limit, int32_t(DoubleTile::kLines))) return;
    double total = 0;
    RNC_UNROLL
    for (int warp = 0; warp < DoubleTile::kWarpsAcross; ++warp) {
      total += columns[warp][threadIdx.x];
    }
    ptx::store_global(out + threadIdx.x, total);
  }
};

// Of W covariance: the filters' gradient; and s1 W, with what it adds to the constant.
template <class T>
struct FilterGradient {
  const T* weight;  // [K][C]
  int32_t K, C;
  bool aligned;
  const double* product;  // [K][C]
  const double* sums;     // [K]
  const double* mean;     // [C]
  const double* excess;   // [C] or null
  const double* moments;  // [K] or null
  const AccOf<T>* shift;  // [C]
  GradientFactors<AccOf<T>> factors;
  T* dweight;        // [K][C] or null
  T* of_gradient;    // [K][C] or null
  double* partials;  // [row tiles][C] or null

  using Shared = ColumnTotals;

  __device__ __forceinline__ void run(int32_t first_row, int32_t first_column,
                                      const DoubleSums& through_covariance, Shared& shared) const {
    double totals[DoublePlace::kTiles][2] = {};
    const double inverse = inverse_rows(factors.rows);
    RNC_UNROLL
    for (int i = 0; i < DoublePlace::kTiles; ++i) {
      const int32_t row = first_row + DoublePlace::row(i);
      if (row >= K) continue;
      const double s1 = factors.s1(row), mean_gradient = factors.mean_gradient(row, inverse);
      const double s2 = dweight ? factors.s2(row, inverse) : 0.0;
      const double sum = dweight ? ptx::load_global_input(sums + row) : 0.0;
      double s3 = 0, sum_of_dy = 0;
      if (dweight && excess) {
        s3 = s1 * mean_gradient;
        sum_of_dy = s1 * sum + s2 * ptx::load_global_input(moments + row) - factors.rows.own * s3;
      }
      RNC_UNROLL
      for (int j = 0; j < DoublePlace::kTiles; ++j) {
        const int32_t column = first_column + DoublePlace::column(j);
        if (column >= C) continue;
        const int64_t at = int64_t(row) * C + column;
        if (dweight) {
          const Vec<double, 2> means = load_pair(mean + column, aligned);
          const Vec<double, 2> products = load_pair(product + at, aligned);
          double gradient[2];
          RNC_UNROLL
          for (int c = 0; c < 2; ++c) {
            gradient[c] =
                s1 * (products.v[c] - sum * means.v[c]) + s2 * through_covariance[i][j][c];
          }
          if (excess) {
            const Vec<double, 2> excesses = load_pair(excess + column, aligned);
            const Vec<AccOf<T>, 2> shifts = load_pair(shift + column, aligned);
            RNC_UNROLL
            for (int c = 0; c < 2; ++c) {
              gradient[c] += sum_of_dy * (means.v[c] + double(shifts.v[c])) - s3 * excesses.v[c];
            }
          }
          store_pair(dweight + at, narrowed(gradient[0], gradient[1]), aligned);
        }
        if (of_gradient) {
          const Vec<T, 2> w = load_pair(weight + at, aligned);
          const Vec<T, 2> scaled = narrowed(s1 * double(widen(w.v[0])), s1 * double(widen(w.v[1])));
          store_pair(of_gradient + at, scaled, aligned);
          RNC_UNROLL
          for (int c = 0; c < 2; ++c) totals[j][c] += mean_gradient * double(widen(scaled.v[c]));
        }
      }
    }
    if (!of_gradient) return;
    shared.store(totals, C - first_column, partials + int64_t(blockIdx.y) * C + first_column);
  }

 private:
  static __device__ __forceinline__ Vec<T, 2> narrowed(double first, double second) {
    Vec<T, 2> pair;
    narrow_two(AccOf<T>(first), AccOf<T>(second), pair.v);
    return pair;
  }
};

// Of W' s2 W: itself rounded, of 16 bits also what rounding lost, with what they add to the
// constant.
template <class T>
struct SplitMatrix {
  static constexpr bool kSplits = sizeof(T) == 2;

  int32_t C;
  bool aligned;
  const double* mean;  // [C]
  T* matrix;           // [1 + kSplits][C][C]
  double* partials;    // [row tiles][C]

  using Shared = ColumnTotals;

  __device__ __forceinline__ void run(int32_t first_row, int32_t first_column,
                                      const DoubleSums& product, Shared& shared) const {
    double totals[DoublePlace::kTiles][2] = {};
    RNC_UNROLL
    for (int i = 0; i < DoublePlace::kTiles; ++i) {
      const int32_t row = first_row + DoublePlace::row(i);
      if (row >= C) continue;
      const double mean_of_row = ptx::load_global_input(mean + row);
      RNC_UNROLL
      for (int j = 0; j < DoublePlace::kTiles; ++j) {
        const int32_t column = first_column + DoublePlace::column(j);
        if (column >= C) continue;
        T* const at = matrix + int64_t(row) * C + column;
        Vec<T, 2> high, low;
        RNC_UNROLL
        for (int c = 0; c < 2; ++c) {
          const double element = product[i][j][c];
          high.v[c] = narrow_to<T>(AccOf<T>(element));
          double rounded = double(widen(high.v[c]));
          if constexpr (kSplits) {
            low.v[c] = narrow_to<T>(AccOf<T>(element - rounded));
            rounded += double(widen(low.v[c]));
          }
          totals[j][c] += mean_of_row * rounded;
        }
        store_pair(at, high, aligned);
        if constexpr (kSplits) store_pair(at + int64_t(C) * C, low, aligned);
      }
    }
    shared.store(totals, C - first_column, partials + int64_t(blockIdx.y) * C + first_column);
  }
};

}  // namespace rnc
