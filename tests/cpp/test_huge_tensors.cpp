// Elements beyond 2^31 of a tensor. The images are mapped and never touched, but for the pixels
// that a convolution with a huge stride samples.
#include "check.h"
#include "emulated_device.h"
#include "plan_problems.h"

namespace {

using rnc::bfloat16;
using rnc::Conv2dProblem;
using rnc::DType;
using rnc::Status;
using rnc::test::DeviceArray;
using rnc::test::kernels;

constexpr int32_t kChannels = 64, kFilters = 8, kSize = 5900, kStride = kSize - 1;

// Samples the four corners of one image, each with its neighbours where the filter has some.
Conv2dProblem corners(int32_t kernel) {
  return rnc::test::square(1, kSize, kChannels, kFilters, kernel, kStride);
}

// Corner i has i + 1 in its first channel, all else is zero.
void mark_corners(DeviceArray<bfloat16>& x) {
  for (int i = 0; i < 4; ++i) {
    const int64_t pixel = int64_t(i / 2) * kStride * kSize + int64_t(i % 2) * kStride;
    x.data()[pixel * kChannels] = rnc::narrow_to<bfloat16>(float(i + 1));
  }
}

void check_fprop_and_wgrad(int32_t kernel) {
  const Conv2dProblem problem = corners(kernel);
  EXPECT(problem.x_size() > INT32_MAX);
  EXPECT_EQ(Conv2dProblem::output_size(kSize, kernel / 2, 1, kernel, kStride), 2);
  DeviceArray<bfloat16> x("x", size_t(problem.x_size()), true);
  mark_corners(x);
  const bfloat16 one = rnc::narrow_to<bfloat16>(1.0f);
  const size_t weights = size_t(problem.weight_size());
  DeviceArray<bfloat16> weight("weight", std::vector<bfloat16>(weights, one));

  DeviceArray<bfloat16> y("y", size_t(problem.y_size()));
  rnc::ConvFpropParams fprop{};
  fprop.problem = problem;
  fprop.x = x.data();
  fprop.weight = weight.data();
  fprop.y = y.data();
  Status status = kernels().conv_fprop(DType::kBFloat16, fprop, nullptr);
  EXPECT_EQ(std::string(status.ok() ? "" : status.error), "");
  for (int i = 0; i < 4 * kFilters; ++i) EXPECT_EQ(rnc::widen(y[i]), float(i / kFilters + 1));

  DeviceArray<bfloat16> dy("dy", std::vector<bfloat16>(size_t(problem.y_size()), one));
  DeviceArray<bfloat16> dweight("dweight", weights);
  DeviceArray<float> workspace("workspace", weights);
  rnc::ConvWgradParams wgrad{};
  wgrad.problem = problem;
  wgrad.dy = dy.data();
  wgrad.x = x.data();
  wgrad.dweight = dweight.data();
  wgrad.workspace = workspace.data();
  wgrad.splits = 1;
  status = kernels().conv_wgrad(DType::kBFloat16, wgrad, nullptr);
  EXPECT_EQ(std::string(status.ok() ? "" : status.error), "");
  // The corners lie under the middle tap.
  const int64_t taps = int64_t(kernel) * kernel, middle = taps / 2;
  for (int64_t i = 0; i < problem.weight_size(); ++i) {
    const bool marked = i % kChannels == 0 && i / kChannels % taps == middle;
    EXPECT_EQ(rnc::widen(dweight[size_t(i)]), marked ? 10.0f : 0.0f);
  }
}

}  // namespace

RNC_TEST(pixels_of_a_1x1_convolution_are_found_beyond_2_to_the_31_elements) {
  check_fprop_and_wgrad(1);
}

RNC_TEST(windows_are_found_beyond_2_to_the_31_elements) { check_fprop_and_wgrad(3); }
