#include "bindings/conv_geometry.h"

#include <climits>

namespace rnc::bindings {
namespace {

void check_pair(const Arguments& args, const char* name, const Sizes& values, int64_t lowest) {
  args.require(values.size() == 2, name, " has ", values.size(), " values, expected 2");
  for (const int64_t value : values) {
    args.require(value >= lowest && value <= INT32_MAX, name, " contains ", value,
                 ", expected values from ", lowest, " to 2^31 - 1");
  }
}

int32_t checked_output_size(const Arguments& args, const char* what, int64_t in, int64_t padding,
                            int64_t dilation, int64_t kernel, int64_t stride) {
  const int64_t padded = in + 2 * padding;
  const int64_t window = dilation * (kernel - 1) + 1;
  args.require(padded <= INT32_MAX, "the padded ", what, " is ", padded, ", expected below 2^31");
  args.require(window <= padded, "weight's window spans ", window, " of the ", what,
               ", expected at most the padded ", what, " of x, ", padded);
  return int32_t((padded - window) / stride + 1);
}

}  // namespace

Conv2dProblem conv_problem(const Arguments& args, const Shape& x, const Shape& weight,
                           const ConvGeometry& geometry) {
  check_pair(args, "stride", geometry.stride, 1);
  check_pair(args, "padding", geometry.padding, 0);
  check_pair(args, "dilation", geometry.dilation, 1);
  const int64_t groups = geometry.groups;
  args.require(groups >= 1 && x.C % groups == 0 && weight.N % groups == 0, "groups is ", groups,
               ", expected a divisor of x's channels, ", x.C, ", and of weight's filters, ",
               weight.N);
  args.require(weight.C == x.C / groups, "weight has ", weight.C,
               " channels in each filter, expected x's channels / groups, ", x.C / groups);

  Conv2dProblem problem{};
  problem.N = x.N;
  problem.H = x.H;
  problem.W = x.W;
  problem.C = x.C;
  problem.K = weight.N;
  problem.R = weight.H;
  problem.S = weight.W;
  problem.pad_h = int32_t(geometry.padding[0]);
  problem.pad_w = int32_t(geometry.padding[1]);
  problem.stride_h = int32_t(geometry.stride[0]);
  problem.stride_w = int32_t(geometry.stride[1]);
  problem.dilation_h = int32_t(geometry.dilation[0]);
  problem.dilation_w = int32_t(geometry.dilation[1]);
  problem.groups = int32_t(groups);
  problem.P = checked_output_size(args, "height", x.H, problem.pad_h, problem.dilation_h, weight.H,
                                  problem.stride_h);
  problem.Q = checked_output_size(args, "width", x.W, problem.pad_w, problem.dilation_w, weight.W,
                                  problem.stride_w);
  args.require(int64_t(problem.P) * problem.Q <= INT32_MAX && problem.output_pixels() <= INT32_MAX,
               "the output would be ", problem.N, " x ", problem.P, " x ", problem.Q,
               " pixels, expected fewer than 2^31");
  return problem;
}

Shape output_shape(const Conv2dProblem& problem) {
  return {problem.N, problem.K, problem.P, problem.Q};
}

}  // namespace rnc::bindings
