// The two 1x1 convolutions of a bottleneck as GEMMs over pixel rows (no im2col).
#pragma once

#include <cstdint>

#include "kernels/conv/conv_problem.h"

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

// z = relu(scale * (a W^T) + bias + shortcut); shortcut = residual_scale * residual, or
// projection_scale * (p Wp^T) + projection_bias. a = x or max(x * x_scale + x_bias, x_floor), p the
// same of the sampled residual.
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

  const void* x_scale;             // Acc [C] or null
  const void* x_bias;              // Acc [C], null exactly when x_scale is
  const void* x_floor;             // Acc [C] or null (0); needs x_scale
  const void* projection_x_scale;  // Acc [residual_C] or null; needs a projection
  const void* projection_x_bias;   // Acc [residual_C], null exactly when projection_x_scale is
  const void* projection_x_floor;  // Acc [residual_C] or null (0); needs projection_x_scale
};

// y = relu(scale * (x W^T) + bias + residual) and z = relu(next_scale * (y Wn^T) + next_bias): a
// block's expand, and the reduce of the block behind it.
struct BottleneckExpandReduceParams {
  // C: all of a tile's channels stay in shared memory.
  static constexpr int32_t kMostChannels = 256;

  int32_t N, P, Q, C, K, L;  // x [N, P, Q, C], y [N, P, Q, K], z [N, P, Q, L]
  const void* x;             // T [N, P, Q, C]
  const void* weight;        // T [K, C]
  const void* scale;         // Acc [K]
  const void* bias;          // Acc [K]
  const void* residual;      // T [N, P, Q, K]
  void* y;                   // T [N, P, Q, K]
  const void* next_weight;   // T [L, K]
  const void* next_scale;    // Acc [L]
  const void* next_bias;     // Acc [L]
  void* z;                   // T [N, P, Q, L]
  bool allow_tf32;           // float may be multiplied as TF32
};

// A block with an identity shortcut: y = relu(expand_scale * (b We^T) + expand_bias + x) of b =
// relu(convolve_scale * conv3x3(a, Wc) + convolve_bias) of a = relu(reduce_scale * (x Wr^T) +
// reduce_bias). The 3x3 has padding 1; a and b are rounded to T.
struct BottleneckBlockParams {
  int32_t N, H, W, C, K;        // x, y [N, H, W, C], a, b [N, H, W, K]
  const void* x;                // T [N, H, W, C]
  const void* reduce_weight;    // T [K, C]
  const void* reduce_scale;     // Acc [K]
  const void* reduce_bias;      // Acc [K]
  const void* convolve_weight;  // T [K, 3, 3, K]
  const void* convolve_scale;   // Acc [K]
  const void* convolve_bias;    // Acc [K]
  const void* expand_weight;    // T [C, K]
  const void* expand_scale;     // Acc [C]
  const void* expand_bias;      // Acc [C]
  void* y;                      // T [N, H, W, C]
  void* reduced;                // T [N, H, W, K], or null where the plan has one kernel for all
  void* convolved;              // T [N, H, W, K], null exactly when reduced is
  bool allow_tf32;              // float may be multiplied as TF32
};

// Batch norm behind a pointwise convolution of x [N, H, W, C] in closed form: of `problem` these
// passes only read sizes and strides. at [N P Q, C] are the rows of the (sampled) input, at = max(x
// x_scale + x_bias, x_floor); du [N P Q, K] is the gradient of the output, dz where its bit is set,
// else 0.

// sums = the sums of at's columns, gram = at^T at: the convolution's statistics follow from them.
struct BottleneckGramParams {
  Conv2dProblem problem;  // with as many filters as channels
  const void* x;          // T [N, H, W, C]
  const void* x_scale;    // Acc [C] or null: at = x
  const void* x_bias;     // Acc [C], null exactly when x_scale is
  const void* x_floor;    // Acc [C] or null (0); needs x_scale
  double* sums;           // [C]
  double* gram;           // [C, C]
  void* workspace;        // Acc [splits][C C + C]
  int32_t splits;         // as plan_pixel_product has them
  bool allow_tf32;        // float may be multiplied as TF32
};

// product = du^T at, sums = the sums of du's columns.
struct BottleneckExpandWgradParams {
  Conv2dProblem problem;
  const void* dz;       // T [N, P, Q, K]
  const uint8_t* mask;  // [N P Q K / 8], bit i % 8 of byte i / 8 belongs to element i; or null: du
                        // = dz
  const void* x;        // T [N, H, W, C]
  const void* x_scale;  // Acc [C] or null: at = x
  const void* x_bias;   // Acc [C], null exactly when x_scale is
  const void* x_floor;  // Acc [C] or null (0); needs x_scale
  double* product;      // [K, C]
  double* sums;         // [K]
  void* workspace;      // Acc [splits][K C + K]
  int32_t splits;       // as plan_pixel_product has them
  bool allow_tf32;      // float may be multiplied as TF32
};

// dx = da where the ReLU let x through, da = du weight + at matrix + bias.
struct BottleneckExpandDgradParams {
  Conv2dProblem problem;
  const void* dz;       // T [N, P, Q, K]
  const uint8_t* mask;  // [N P Q K / 8] or null, as above
  const void* weight;   // T [K, C]
  const void* x;        // T [N, H, W, C]
  const void* x_scale;  // Acc [C] or null: at = x
  const void* x_bias;   // Acc [C], null exactly when x_scale is
  const void* x_floor;  // Acc [C] or null (0); needs x_scale
  const void* matrix;   // T [matrices][C][C], to be summed
  int32_t matrices;
  const void* bias;       // Acc [C]
  const void* act_scale;  // Acc [C] or null: no ReLU; needs stride 1
  const void* act_bias;   // Acc [C], null exactly when act_scale is
  const void* act_mean;   // Acc [C], null exactly when partials is
  void* dx;               // T [N, P, Q, C]
  void* partials;  // Acc [stats_tiles(N P Q)][2][C] or null (needs act_scale): sums of dx and of dx
                   // (x - act_mean)
  bool allow_tf32;  // float may be multiplied as TF32
};

}  // namespace rnc
