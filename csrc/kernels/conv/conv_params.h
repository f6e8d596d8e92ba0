// One params struct per convolution pass: raw pointers, the shape beside each. T is the storage
// type, Acc = AccOf<T>; a pointer that may be null says so.
#pragma once

#include "kernels/conv/conv_problem.h"
#include "kernels/fusion/residual_sampling.h"

namespace rnc {

// y = relu?(scale * conv(a, weight) + bias + residual_scale * residual), a = x or max(x * x_scale +
// x_bias, x_floor) (zero at padding).
struct ConvFpropParams {
  Conv2dProblem problem;
  const void* x;                       // T [N, H, W, C]
  const void* weight;                  // T [K, R, S, C / groups]
  void* y;                             // T [N, P, Q, K]
  const void* x_scale;                 // Acc [C] or null: normalise-on-load
  const void* x_bias;                  // Acc [C], null exactly when x_scale is
  const void* x_floor;                 // Acc [C] or null (0); needs x_scale, and no padding
  const void* scale;                   // Acc [K] or null (1)
  const void* bias;                    // Acc [K] or null (0)
  const void* residual;                // T [N, P, Q, K] or what sampling says, or null
  const void* residual_scale;          // Acc [K] or null (1)
  ResidualSampling residual_sampling;  // dense with x_scale
  uint8_t* mask;   // [N P Q K / 8] or null: bit i % 8 of byte i / 8 = not (y[i] <= 0); needs K
                   // / groups to be a multiple of 8
  void* partials;  // Acc [ceil(N P Q / kStatsTileRows)][2][K] or null: (mean, M2) of the stored y
                   // per row tile and channel; needs scale, bias, residual null and relu false
  bool relu;
  bool allow_tf32;  // float may be multiplied as TF32
};

// y = max_pool(relu(scale * conv(x, weight) + bias)) with windows of 3 x 3, stride 2 and padding 1.
struct ConvMaxPoolParams {
  Conv2dProblem problem;
  const void* x;       // T [N, H, W, C]
  const void* weight;  // T [K, R, S, C / groups]
  const void* scale;   // Acc [K]
  const void* bias;    // Acc [K]
  void* y;             // T [N, ceil(P / 2), ceil(Q / 2), K]
  void* convolved;     // T [N, P, Q, K], or null where the plan pools in the convolution's kernel
  bool allow_tf32;     // float may be multiplied as TF32
};

// Batch norm's and ReLU's backward, applied to a gradient dz of their output while it is loaded: dy
// = c0 g + (c1 (y - c3) + c2) with g = dz where y gate_scale + gate_bias is not <= 0, else 0.
struct BnBackwardOnLoad {
  const void* y;             // T [N, P, Q, K] or null: the gradient is dy already
  const void* coefficients;  // Acc [kBnCoefficients][K], null exactly when y is
  const void* gate_scale;    // Acc [K] or null: no ReLU
  const void* gate_bias;     // Acc [K], null exactly when gate_scale is
};

// g = (dgrad(dy, weight) + addend) * mask, mask = not (act * act_scale + act_bias <= 0) or 1.
struct ConvDgradParams {
  Conv2dProblem problem;
  const void* dy;  // T [N, P, Q, K], or dz
  BnBackwardOnLoad on_load;
  const void* weight;  // T [K, R, S, C / groups]
  void* dx;            // T [N, H, W, C], receives g
  const void* addend;  // T [N, P', Q', addend_C] or null: another branch's gradient, of pixels
                       // (p addend_stride, q addend_stride) and their first C channels
  const uint8_t* addend_mask;  // [N P' Q' addend_C / 8] or null: bits of the elements that count
  int32_t addend_C, addend_stride;
  const void* act;  // T [N, H, W, C] or null: the raw convolution output that batch norm + ReLU
                    // turned into x
  const void* act_scale;  // Acc [C], null exactly when act is
  const void* act_bias;   // Acc [C], null exactly when act is
  const void* act_mean;   // Acc [C], null exactly when partials is
  void* partials;   // Acc [ceil(N H W / kStatsTileRows)][2][C] or null (needs act): sums of g and g
                    // * (act - mean) per row tile
  bool allow_tf32;  // float may be multiplied as TF32
};

// dweight = wgrad(dy, a), a as in fprop. The reduction over pixels is split into `splits` ordered
// parts.
struct ConvWgradParams {
  Conv2dProblem problem;
  const void* dy;  // T [N, P, Q, K], or dz
  BnBackwardOnLoad on_load;
  const void* x;        // T [N, H, W, C]
  void* dweight;        // T [K, R, S, C / groups]
  const void* x_scale;  // Acc [C] or null
  const void* x_bias;   // Acc [C], null exactly when x_scale is
  const void* x_floor;  // Acc [C] or null (0); needs x_scale, and no padding
  void* workspace;      // Acc [splits][K][R][S][C / groups]
  int32_t splits;       // as plan_conv has them, or fewer
  bool allow_tf32;      // float may be multiplied as TF32
};

}  // namespace rnc
