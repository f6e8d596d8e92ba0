// How the output of a convolution is cut into patches under a max-pool with windows of 3 x 3,
// stride 2 and padding 1, so that a block computes all that its pooled pixels need. Host-safe.
//
// Neighbouring patches overlap by one row or column, which both compute. 7 x 8 pooled pixels lie
// over 15 x 17 of the convolution's, 255 of the 256 rows of a tile: 256 rows for what would be 224
// without overlap. 128 rows hold 3 x 8 under 7 x 17 at best, 128 for 96.
#pragma once

#include <cstdint>

#include "common/fast_divmod.h"
#include "kernels/conv/conv_problem.h"

namespace rnc {

struct PoolPatches {
  static constexpr int kWindow = 3, kStride = 2, kPad = 1;
  // Of a patch: pooled pixels, and the convolution's.
  static constexpr int kPooledRows = 7, kPooledColumns = 8;
  static constexpr int kRows = (kPooledRows - 1) * kStride + kWindow;
  static constexpr int kColumns = (kPooledColumns - 1) * kStride + kWindow;

  int32_t P, Q;                // of the convolution
  int32_t pooled_P, pooled_Q;  // of the result
  FastDivmod down, across;     // patches of an image

  explicit PoolPatches(const Conv2dProblem& p)
      : P(p.P),
        Q(p.Q),
        pooled_P(pooled(p.P)),
        pooled_Q(pooled(p.Q)),
        down((pooled_P + kPooledRows - 1) / kPooledRows),
        across((pooled_Q + kPooledColumns - 1) / kPooledColumns) {}

  static int32_t pooled(int32_t size) { return (size + 2 * kPad - kWindow) / kStride + 1; }

  int64_t count(int32_t images) const { return int64_t(images) * down.divisor * across.divisor; }
};

// A patch: the image, its first pooled pixel and its first pixel of the convolution, which is
// outside where the pool is padded.
struct PoolPatch {
  int32_t n, pooled_p, pooled_q;
  int32_t p, q;

  RNC_HOST_DEVICE PoolPatch(const PoolPatches& patches, int32_t index) {
    // [N down across] -> [N, down, across]
    n = patches.down.divide(patches.across.divide(index, pooled_q), pooled_p);
    pooled_p *= PoolPatches::kPooledRows;
    pooled_q *= PoolPatches::kPooledColumns;
    p = pooled_p * PoolPatches::kStride - PoolPatches::kPad;
    q = pooled_q * PoolPatches::kStride - PoolPatches::kPad;
  }
};

}  // namespace rnc
