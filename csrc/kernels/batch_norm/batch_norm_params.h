// Params of the batch-norm passes over y [rows, C], rows = N H W. T is the storage type, Acc =
// AccOf<T>.
#pragma once

#include <cstdint>

#include "kernels/fusion/residual_sampling.h"

namespace rnc {

// Rows of y that one statistics tile covers, in every pass that writes or reads partials.
constexpr int32_t kStatsTileRows = 64;

// Per-channel coefficients of the batch-norm backward; the centre c3 keeps large means from
// cancelling.
constexpr int32_t kBnCoefficients = 4;

inline int64_t stats_tiles(int64_t rows) { return (rows + kStatsTileRows - 1) / kStatsTileRows; }

// Which elements a ReLU let through: a bit mask, or recomputed from the pre-activation, or all of
// them (every pointer null).
struct ReluGate {
  const uint8_t* mask;  // [ceil(rows C / 8)], bit i % 8 of byte i / 8 belongs to element i, or null
  const void* scale;    // Acc [C] or null: pass where not (y * scale + bias <= 0)
  const void* bias;     // Acc [C], null exactly when scale is
};

struct BnStatisticsParams {
  int64_t rows;
  int32_t C;
  const void* y;   // T [rows, C]
  void* partials;  // Acc [stats_tiles(rows)][2][C]: mean and M2 (sum of squares about that mean)
                   // per tile
};

struct BnFinalizeParams {
  int64_t rows;
  int32_t C;
  const void* partials;  // Acc [stats_tiles(rows)][2][C]
  const void* gamma;     // Acc [C] or null (1)
  const void* beta;      // Acc [C] or null (0)
  void* running_mean;    // Acc [C] or null; updated in place
  void* running_var;     // Acc [C], null exactly when running_mean is; updated with the unbiased
                         // variance
  double momentum;       // weight of the new value
  double eps;
  void* mean;    // Acc [C]
  void* invstd;  // Acc [C] 1 / sqrt(var + eps)
  void* scale;   // Acc [C] gamma * invstd
  void* bias;    // Acc [C] beta - scale * mean
};

// z = relu?(y * scale + bias + residual * residual_scale)
struct BnApplyParams {
  int64_t rows;
  int32_t C;
  const void* y;               // T [rows, C]
  const void* scale;           // Acc [C]
  const void* bias;            // Acc [C]
  const void* residual;        // T [rows, C] or what sampling says, or null
  const void* residual_scale;  // Acc [C] or null (1); needs residual
  ResidualSampling residual_sampling;
  void* z;        // T [rows, C]
  uint8_t* mask;  // [ceil(rows C / 8)] or null: bit = not (z <= 0)
  bool relu;
};

struct BnBackwardReduceParams {
  int64_t rows;
  int32_t C;
  const void* dz;    // T [rows, C]
  const void* y;     // T [rows, C]
  const void* mean;  // Acc [C]
  ReluGate gate;
  void* partials;  // Acc [stats_tiles(rows)][2][C]: sums of g and of g * (y - mean), g = dz where
                   // the gate passes, else 0
};

struct BnBackwardFinalizeParams {
  int64_t rows;
  int64_t tiles;
  int32_t C;
  const void* partials;  // Acc [tiles][2][C]
  const void* gamma;     // Acc [C] or null (1)
  const void* mean;      // Acc [C]
  const void* invstd;    // Acc [C]
  bool training;         // false: mean and invstd were constants (eval mode)
  void* dgamma;          // Acc [C]
  void* dbeta;           // Acc [C]
  void* coefficients;    // Acc [kBnCoefficients][C]: dy = c0 * g + (c1 * (y - c3) + c2)
};

struct BnBackwardApplyParams {
  int64_t rows;
  int32_t C;
  const void* dz;  // T [rows, C]
  const void* y;   // T [rows, C]
  ReluGate gate;
  const void* coefficients;  // Acc [kBnCoefficients][C]
  const void* addend;        // T [N, P, Q, addend_C] or null: another branch's gradient, of pixels
                             // (p addend_stride, q addend_stride) and their first C channels
  int32_t H, W, addend_C, addend_stride;
  void* dy;         // T [rows, C]
  void* dresidual;  // T [rows, C] or null: receives g
};

}  // namespace rnc
