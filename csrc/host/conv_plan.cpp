#include "host/conv_plan.h"

#include <pybind11/stl.h>

#include <array>
#include <climits>
#include <stdexcept>
#include <string>

#include "launch/plan.h"

namespace rnc::host {
namespace {

namespace py = pybind11;
using Pair = std::array<int64_t, 2>;

ConvOp op_named(const std::string& name) {
  if (name == "fprop") return ConvOp::kFprop;
  if (name == "dgrad") return ConvOp::kDgrad;
  if (name == "wgrad") return ConvOp::kWgrad;
  throw py::value_error("op is '" + name +
                        "', expected 'fprop', 'dgrad', 'wgrad', 'product' or 'gram'");
}

DType dtype_named(const std::string& name) {
  std::string accepted;
#define RNC_COMPARE(id, T, Acc, text) \
  if (name == text) return DType::id; \
  accepted += std::string(accepted.empty() ? "" : ", ") + text;
  RNC_FOR_EACH_DTYPE(RNC_COMPARE)
#undef RNC_COMPARE
  throw py::value_error("dtype is '" + name + "', expected one of " + accepted);
}

int32_t checked(const char* name, int64_t value, int64_t lowest) {
  if (value < lowest || value > INT32_MAX) {
    throw py::value_error(std::string(name) + " contains " + std::to_string(value) +
                          ", expected values from " + std::to_string(lowest) + " to 2^31 - 1");
  }
  return int32_t(value);
}

int32_t output_size(int64_t in, int64_t padding, int64_t dilation, int64_t kernel, int64_t stride) {
  const int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
  if (room < 0 || in + 2 * padding > INT32_MAX) {
    throw py::value_error("the window spans more than the padded input");
  }
  return int32_t(room / stride + 1);
}

// x_size [N, C, H, W] and weight_size [K, C / groups, R, S], as torch has them.
Conv2dProblem problem_of(const std::array<int64_t, 4>& x_size,
                         const std::array<int64_t, 4>& weight_size, Pair stride, Pair padding,
                         Pair dilation, int64_t groups) {
  Conv2dProblem p{};
  p.N = checked("x_size", x_size[0], 1);
  p.C = checked("x_size", x_size[1], 1);
  p.H = checked("x_size", x_size[2], 1);
  p.W = checked("x_size", x_size[3], 1);
  p.K = checked("weight_size", weight_size[0], 1);
  p.R = checked("weight_size", weight_size[2], 1);
  p.S = checked("weight_size", weight_size[3], 1);
  p.stride_h = checked("stride", stride[0], 1);
  p.stride_w = checked("stride", stride[1], 1);
  p.pad_h = checked("padding", padding[0], 0);
  p.pad_w = checked("padding", padding[1], 0);
  p.dilation_h = checked("dilation", dilation[0], 1);
  p.dilation_w = checked("dilation", dilation[1], 1);
  p.groups = checked("groups", groups, 1);
  if (p.C % p.groups || p.K % p.groups || weight_size[1] != p.C / p.groups) {
    throw py::value_error("groups is " + std::to_string(groups) +
                          ", expected a divisor of the channels and filters, with weight_size[1] = "
                          "channels / groups");
  }
  p.P = output_size(p.H, p.pad_h, p.dilation_h, p.R, p.stride_h);
  p.Q = output_size(p.W, p.pad_w, p.dilation_w, p.S, p.stride_w);
  return p;
}

ConvPlan plan_named(const std::string& op, const Conv2dProblem& problem, DType dtype,
                    const PlanLimits& limits) {
  if (op == "product" || op == "gram") {
    if (problem.R != 1 || problem.S != 1 || problem.groups != 1) {
      throw py::value_error("op is '" + op + "', expected 1x1 filters without groups for it");
    }
    return plan_pixel_product(problem, dtype, op == "gram", limits);
  }
  return plan_conv(op_named(op), problem, dtype, limits);
}

py::dict described(const ConvPlan& plan, const std::string& dtype) {
  py::dict out;
  out["kernel"] = plan.kernel;
  out["why"] = plan.why;
  out["tile"] = py::make_tuple(plan.tile_m, plan.tile_n, plan.tile_k);
  out["splits"] = plan.splits;
  out["grid"] = py::make_tuple(plan.grid[0], plan.grid[1], plan.grid[2]);
  out["tf32"] = dtype == "float32" && plan.generation != Generation::kSimt;
  out["macs"] = plan.macs;
  out["bytes"] = plan.bytes;
  out["error"] = plan.error ? py::object(py::str(plan.error)) : py::object(py::none());
  return out;
}

py::dict conv_plan(const std::string& op, const std::string& dtype,
                   const std::array<int64_t, 4>& x_size, const std::array<int64_t, 4>& weight_size,
                   Pair stride, Pair padding, Pair dilation, int64_t groups, bool narrow,
                   bool normalises, bool takes_sums, bool allow_tf32, bool max_pool,
                   Pair capability, int64_t multiprocessors) {
  PlanLimits limits;
  limits.narrow = narrow;
  limits.normalises = normalises;
  limits.takes_sums = takes_sums;
  limits.allow_tf32 = allow_tf32;
  limits.max_pools = max_pool;
  limits.device.capability = checked("capability", 10 * capability[0] + capability[1], 0);
  limits.device.multiprocessors = checked("multiprocessors", multiprocessors, 1);
  return described(
      plan_named(op, problem_of(x_size, weight_size, stride, padding, dilation, groups),
                 dtype_named(dtype), limits),
      dtype);
}

py::dict expand_reduce_plan(const std::string& dtype, const std::array<int64_t, 4>& x_size,
                            const std::array<int64_t, 4>& weight_size, int64_t reduced,
                            Pair capability) {
  PlanLimits limits;
  limits.device.capability = checked("capability", 10 * capability[0] + capability[1], 0);
  const Conv2dProblem expand = problem_of(x_size, weight_size, {1, 1}, {0, 0}, {1, 1}, 1);
  return described(
      plan_expand_reduce(expand, checked("reduced", reduced, 1), dtype_named(dtype), limits),
      dtype);
}

py::dict bottleneck_block_plan(const std::string& dtype, const std::array<int64_t, 4>& x_size,
                               int64_t reduced, Pair capability, int64_t multiprocessors) {
  PlanLimits limits;
  limits.device.capability = checked("capability", 10 * capability[0] + capability[1], 0);
  limits.device.multiprocessors = checked("multiprocessors", multiprocessors, 1);
  const Conv2dProblem convolution = problem_of({x_size[0], reduced, x_size[2], x_size[3]},
                                               {reduced, reduced, 3, 3}, {1, 1}, {1, 1}, {1, 1}, 1);
  return described(plan_bottleneck_block(convolution, checked("x_size", x_size[1], 1),
                                         dtype_named(dtype), limits),
                   dtype);
}

}  // namespace

void bind_conv_plan(py::module_& m) {
  m.def("conv_plan", &conv_plan, py::arg("op"), py::arg("dtype"), py::arg("x_size"),
        py::arg("weight_size"), py::kw_only(), py::arg("stride") = Pair{1, 1},
        py::arg("padding") = Pair{0, 0}, py::arg("dilation") = Pair{1, 1}, py::arg("groups") = 1,
        py::arg("narrow") = false, py::arg("normalises") = false, py::arg("takes_sums") = false,
        py::arg("allow_tf32") = false, py::arg("max_pool") = false,
        py::arg("capability") = Pair{9, 0},
        py::arg("multiprocessors") = PlanDevice().multiprocessors,
        "The plan of one convolution pass ('fprop', 'dgrad', 'wgrad'; of 1x1 filters 'product', "
        "wgrad summed up in float64, and 'gram', x by itself) as a dict: kernel, why, "
        "tile (m, n, k), splits, grid, tf32 (whether float32 is multiplied as such), macs, bytes "
        "(every operand once), error (None, or why no kernel can run it). x_size is [N, C, H, W], "
        "weight_size [K, C / groups, R, S]; narrow: two sets of accumulators have to fit, or two "
        "tensors of an operand; normalises: x is normalised on load; takes_sums: of dgrad's "
        "result, for batch norm's backward; allow_tf32 is what torch's switch says; max_pool: of "
        "the kernel that also pools 3x3 windows with stride 2 and padding "
        "1; capability: the GPU's (major, minor); multiprocessors: how many it has. "
        "Raises ValueError for impossible geometry.");
  m.def(
      "expand_reduce_plan", &expand_reduce_plan, py::arg("dtype"), py::arg("x_size"),
      py::arg("weight_size"), py::arg("reduced"), py::kw_only(), py::arg("capability") = Pair{9, 0},
      "The plan of a bottleneck's expand, weight_size [K, C, 1, 1], and of the `reduced` filters "
      "that the next block reduces with, in one kernel; as conv_plan. error says why each runs in "
      "a kernel of its own instead.");
  m.def(
      "bottleneck_block_plan", &bottleneck_block_plan, py::arg("dtype"), py::arg("x_size"),
      py::arg("reduced"), py::kw_only(), py::arg("capability") = Pair{9, 0},
      py::arg("multiprocessors") = PlanDevice().multiprocessors,
      "The plan of a whole bottleneck with an identity shortcut, x [N, C, H, W] reduced to so many "
      "channels, in one kernel; as conv_plan. error says why its convolutions run in kernels of "
      "their own instead.");
}

}  // namespace rnc::host
