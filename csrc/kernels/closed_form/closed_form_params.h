// What follows from the Gram matrix and the products of batch norm in closed form, between the
// passes over pixels. W [K, C] are the filters of the pointwise convolution, T; all else that is no
// result for the passes is float64. Of n rows a, shifted, of all ranks: mean m = sum a / n. Of a
// rank's own: excess e = sum (a - m), zero without other ranks, and covariance = sum (a - m)(a -
// m)'.
#pragma once

#include <cstdint>

namespace rnc {

// Rows and columns of the matrices that one block computes.
constexpr int32_t kClosedFormTile = 64;

inline int64_t closed_form_tiles(int32_t lines) {
  return (int64_t(lines) + kClosedFormTile - 1) / kClosedFormTile;
}

// Sums that a tile of W covariance leaves of each filter: w covariance w', w m, w shift.
constexpr int32_t kClosedFormSums = 3;

// A number of rows, which only the device knows where it was summed over ranks.
struct RowCount {
  double own;
  const double* of_all;  // [] or null: the own are all
};

// The convolution's batch norm, from the sums of what it reads.
struct ClosedFormFinalizeParams {
  int32_t K, C;
  const void* weight;  // T [K, C]
  const double* sums;  // [C], of all ranks
  const double* gram;  // [C, C], of all ranks
  const void* shift;   // Acc [C], subtracted from the input
  RowCount rows;
  const double* own_sums;  // [C], null exactly when rows.of_all is
  const void* gamma;       // Acc [K] or null (1)
  const void* beta;        // Acc [K] or null (0)
  void* running_mean;      // Acc [K] or null; updated in place, unless there are no rows
  void* running_var;       // Acc [K], null exactly when running_mean is
  double momentum;         // weight of the new value
  double eps;
  double* mean;         // [C]
  double* excess;       // [C], null exactly when own_sums is
  double* output_mean;  // [K]
  double* invstd;       // [K]
  void* scale;          // Acc [K]
  void* bias;           // Acc [K]
  double* workspace;    // [closed_form_tiles(C)][kClosedFormSums][K]
};

// Of a gradient u of the batch norm's output: product = u'a and sums = sum u, of the rank's own
// rows.
struct ClosedFormBackwardReduceParams {
  int32_t K, C;
  const void* weight;     // T [K, C]
  const double* product;  // [K, C]
  const double* sums;     // [K]
  const double* mean;     // [C]
  const double* excess;   // [C] or null (0)
  const double* invstd;   // [K]
  double* dgamma;         // [K]
  double* moments;        // [K] W excess, null exactly when excess is
};

// With s1 = gamma invstd, s2 = -s1 invstd dgamma / n, s3 = s1 sums / n (dgamma and sums of all
// ranks): the gradient of the rank's y is s1 u + s2 W (a - m) - s3, the input's [u | a]
// [of_gradient; of_operand] + constant.
struct ClosedFormBackwardFinalizeParams {
  int32_t K, C;
  const void* weight;           // T [K, C]
  const double* product;        // [K, C]
  const double* sums;           // [K]
  const double* gram;           // [C, C], of the own rows
  const double* mean;           // [C]
  const double* excess;         // [C] or null (0)
  const double* moments;        // [K] or null, as excess
  const void* shift;            // Acc [C]
  const double* invstd;         // [K]
  const void* gamma;            // Acc [K] or null (1)
  const double* dgamma_of_all;  // [K]
  const double* sums_of_all;    // [K]
  RowCount rows;
  void* dweight;      // T [K, C] or null
  void* of_gradient;  // T [K, C] or null: s1 W
  void* of_operand;   // T [matrices][C][C], null exactly when of_gradient is: W' s2 W, the rounded
                      // one and, of 16 bits, what rounding lost
  void* constant;     // Acc [C], null exactly when of_gradient is
  double* workspace;  // [closed_form_tiles(K) + closed_form_tiles(C)][C], null exactly when
                      // of_gradient is
};

}  // namespace rnc
