// The two 1x1 convolutions of a bottleneck as GEMMs over pixel rows (no im2col).
#pragma once

#include <cstdint>

namespace rnc {

// z = relu(scale * (x W^T) + bias), or y = x W^T with statistics. Strided: row (n, p, q) reads
// pixel (n, p stride, q stride).
struct BottleneckReduceParams {
  int32_t N, H, W, C;  // x [N, H, W, C]
  int32_t K, P, Q;     // z [N, P, Q, K]
  int32_t stride;
  const void* x;       // T [N, H, W, C]
  const void* weight;  // T [K, C]
  const void* scale;   // Acc [K] or null (raw output)
  const void* bias;    // Acc [K], null exactly when scale is
  void* z;             // T [N, P, Q, K]
  void* partials;      // Acc [stats_tiles(N P Q)][2][K] or null; needs scale null
  bool relu;
  bool allow_tf32;  // float may be multiplied as TF32
};

// z = relu(scale * (x W^T) + bias + shortcut); shortcut = residual_scale * residual, or
// projection_scale * (residual_s Wp^T) + projection_bias.
struct BottleneckExpandParams {
  int32_t N, P, Q, C, K;  // x [N, P, Q, C], z [N, P, Q, K]
  const void* x;          // T [N, P, Q, C]
  const void* weight;     // T [K, C]
  const void* scale;      // Acc [K] or null (raw output: no bias, shortcut or relu)
  const void* bias;       // Acc [K], null exactly when scale is
  const void* residual;   // T [N, P, Q, K], or T [N, H, W, residual_C] with a projection, or null
  const void* residual_scale;  // Acc [K] or null (1); null with a projection
  void* z;                     // T [N, P, Q, K]
  uint8_t* mask;   // [N P Q K / 8] or null: bits of not (z <= 0); needs K to be a multiple of 8
  void* partials;  // Acc [stats_tiles(N P Q)][2][K] or null; needs scale null
  bool relu;
  bool allow_tf32;  // float may be multiplied as TF32

  const void* projection_weight;  // T [K, residual_C] or null: identity shortcut
  const void* projection_scale;   // Acc [K]
  const void* projection_bias;    // Acc [K]
  int32_t H, W, residual_C, projection_stride;
};

}  // namespace rnc
