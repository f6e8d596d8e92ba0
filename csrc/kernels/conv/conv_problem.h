// The geometry of a 2-D convolution, once. Host-safe: tests, plans and kernels share it.
#pragma once

#include <cstdint>

namespace rnc {

enum class ConvOp : int32_t { kFprop, kDgrad, kWgrad };

// Channels of a super-group into which whole small groups are packed, with as many filters: 64
// bytes of 16 bits. Of groups of so many channels as one instruction sums over, or fewer, only the
// super-group's diagonal blocks need be multiplied.
constexpr int32_t kPackedChannels = 32;
constexpr int32_t kDiagonalChannels = 16;

// x [N, H, W, C], weight [K, R, S, C / groups], y [N, P, Q, K], all dense with the last index
// fastest.
struct Conv2dProblem {
  int32_t N, H, W, C;
  int32_t K, R, S;
  int32_t P, Q;
  int32_t pad_h, pad_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t groups;

  static int32_t output_size(int32_t in, int32_t pad, int32_t dilation, int32_t kernel,
                             int32_t stride) {
    return (in + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  }

  int32_t channels_per_group() const { return C / groups; }
  int32_t filters_per_group() const { return K / groups; }
  int64_t input_pixels() const { return int64_t(N) * H * W; }
  int64_t output_pixels() const { return int64_t(N) * P * Q; }
  int64_t filter_size() const {
    return int64_t(R) * S * channels_per_group();
  }  // elements of one filter
  int64_t x_size() const { return input_pixels() * C; }
  int64_t y_size() const { return output_pixels() * K; }
  int64_t weight_size() const { return int64_t(K) * filter_size(); }
  int64_t macs() const { return output_pixels() * K * filter_size(); }

  // A 1x1 convolution without padding reads each (sampled) pixel's channels as one GEMM row: no
  // im2col.
  bool is_pointwise() const { return R == 1 && S == 1 && pad_h == 0 && pad_w == 0; }

  // One filter for each channel.
  bool is_depthwise() const { return groups > 1 && groups == C && groups == K; }

  // Whole groups make up super-groups, and no 4 neighbouring channels lie in two groups.
  bool is_packable() const {
    const int32_t channels = channels_per_group();
    return groups > 1 && K == C && C % kPackedChannels == 0 && channels >= 4 &&
           kPackedChannels % channels == 0;
  }

  // The implicit GEMM of one group: D[m, n] = sum over k of A[m, k] B[n, k].
  int64_t gemm_m(ConvOp op) const {
    return op == ConvOp::kFprop   ? output_pixels()
           : op == ConvOp::kDgrad ? input_pixels()
                                  : filters_per_group();
  }
  int64_t gemm_n(ConvOp op) const {
    return op == ConvOp::kFprop   ? filters_per_group()
           : op == ConvOp::kDgrad ? channels_per_group()
                                  : filter_size();
  }
  int64_t gemm_k(ConvOp op) const {
    return op == ConvOp::kFprop   ? filter_size()
           : op == ConvOp::kDgrad ? int64_t(R) * S * filters_per_group()
                                  : output_pixels();
  }
};

}  // namespace rnc
