#include <climits>

#include "check.h"
#include "kernels/conv/conv_problem.h"

namespace {

using rnc::Conv2dProblem;
using rnc::ConvOp;

// ResNet-50's first layer.
Conv2dProblem stem() {
  return {.N = 32,
          .H = 224,
          .W = 224,
          .C = 3,
          .K = 64,
          .R = 7,
          .S = 7,
          .P = 112,
          .Q = 112,
          .pad_h = 3,
          .pad_w = 3,
          .stride_h = 2,
          .stride_w = 2,
          .dilation_h = 1,
          .dilation_w = 1,
          .groups = 1};
}

}  // namespace

RNC_TEST(output_size_follows_the_convolution_formula) {
  //                                     in   pad dilation kernel stride
  EXPECT_EQ(Conv2dProblem::output_size(224, 3, 1, 7, 2), 112);
  EXPECT_EQ(Conv2dProblem::output_size(56, 1, 1, 3, 1), 56);
  EXPECT_EQ(Conv2dProblem::output_size(56, 0, 1, 1, 2), 28);
  EXPECT_EQ(Conv2dProblem::output_size(7, 2, 2, 3, 3), 3);
  EXPECT_EQ(Conv2dProblem::output_size(1, 0, 1, 1, 1), 1);
  // A window that covers the padded input exactly has one position.
  EXPECT_EQ(Conv2dProblem::output_size(5, 1, 2, 4, 1), 1);
}

RNC_TEST(the_implicit_gemm_has_the_same_multiplications_in_every_pass) {
  Conv2dProblem p = stem();
  EXPECT_EQ(p.gemm_m(ConvOp::kFprop), 32 * 112 * 112);
  EXPECT_EQ(p.gemm_n(ConvOp::kFprop), 64);
  EXPECT_EQ(p.gemm_k(ConvOp::kFprop), 7 * 7 * 3);
  EXPECT_EQ(p.gemm_m(ConvOp::kFprop) * p.gemm_n(ConvOp::kFprop) * p.gemm_k(ConvOp::kFprop),
            p.macs());
  EXPECT_EQ(p.gemm_m(ConvOp::kWgrad) * p.gemm_n(ConvOp::kWgrad) * p.gemm_k(ConvOp::kWgrad),
            p.macs());
  EXPECT_EQ(p.macs(), int64_t(118013952) * 32);
}

RNC_TEST(groups_divide_the_gemm) {
  Conv2dProblem p = stem();
  p.C = 128;
  p.K = 256;
  p.groups = 32;
  EXPECT_EQ(p.channels_per_group(), 4);
  EXPECT_EQ(p.filters_per_group(), 8);
  EXPECT_EQ(p.filter_size(), 7 * 7 * 4);
  EXPECT_EQ(p.weight_size(), 256 * 7 * 7 * 4);
  EXPECT_EQ(p.gemm_n(ConvOp::kFprop), 8);
  EXPECT_EQ(p.gemm_n(ConvOp::kDgrad), 4);
  EXPECT_EQ(p.gemm_m(ConvOp::kWgrad), 8);
}

RNC_TEST(only_unpadded_1x1_filters_are_pointwise) {
  Conv2dProblem p = stem();
  EXPECT(!p.is_pointwise());
  p.R = p.S = 1;
  EXPECT(!p.is_pointwise());
  p.pad_h = p.pad_w = 0;
  EXPECT(p.is_pointwise());
  p.S = 3;
  EXPECT(!p.is_pointwise());
}

RNC_TEST(sizes_beyond_32_bits_do_not_wrap) {
  Conv2dProblem p = stem();
  p.N = 2048;
  p.H = p.W = p.P = p.Q = 1023;
  p.C = p.K = 2048;
  p.R = p.S = 3;
  const int64_t pixels = int64_t(2048) * 1023 * 1023;
  EXPECT(pixels < INT32_MAX);
  EXPECT_EQ(p.input_pixels(), pixels);
  EXPECT_EQ(p.x_size(), pixels * 2048);
  EXPECT_EQ(p.y_size(), pixels * 2048);
  EXPECT(p.x_size() > INT32_MAX);
  EXPECT_EQ(p.weight_size(), int64_t(2048) * 2048 * 9);
  EXPECT_EQ(p.macs(), pixels * 2048 * 2048 * 9);
}

RNC_TEST(the_largest_filter_count_does_not_wrap) {
  Conv2dProblem p = stem();
  p.K = INT32_MAX;
  p.C = 4;
  EXPECT_EQ(p.weight_size(), int64_t(INT32_MAX) * 7 * 7 * 4);
}
