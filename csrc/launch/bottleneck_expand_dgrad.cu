#include "kernels/bottleneck/bottleneck_expand_dgrad.cuh"
#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

namespace rnc {
namespace {

// dgrad's GEMM of the gradient by the filters; the other one only differs in its depth.
Conv2dProblem gradient_problem(const BottleneckExpandDgradParams& params) {
  Conv2dProblem problem = params.problem;
  problem.H = problem.P;
  problem.W = problem.Q;
  problem.stride_h = problem.stride_w = 1;
  return problem;
}

template <class Mainloop, class T>
Status launch(const ConvPlan& plan, const typename Mainloop::Params& operands,
              const BottleneckExpandDgradParams& params, Stream stream) {
  using Acc = AccOf<T>;
  const Conv2dProblem problem = gradient_problem(params);
  AddGateStoreWithBnReduce<T> epilogue{};
  epilogue.gate.dx = static_cast<T*>(params.dx);
  epilogue.gate.act = params.act_scale ? static_cast<const T*>(params.x) : nullptr;
  epilogue.gate.act_scale = static_cast<const Acc*>(params.act_scale);
  epilogue.gate.act_bias = static_cast<const Acc*>(params.act_bias);
  epilogue.gate.row_stride = problem.C;
  epilogue.gate.aligned = pieces_are_vectors<T>(
      {params.dx, params.x, params.act_scale, params.act_bias, params.act_mean}, problem.C,
      problem.C);
  epilogue.act_mean = static_cast<const Acc*>(params.act_mean);
  epilogue.partials = static_cast<Acc*>(params.partials);
  const GemmShape shape = gemm_shape(plan, ConvOp::kDgrad, problem);
  return launch_gemm<Mainloop>(plan, shape, operands, epilogue, stream);
}

}  // namespace

Status bottleneck_expand_dgrad(DType dtype, const BottleneckExpandDgradParams& params,
                               Stream stream) {
  const Conv2dProblem first = gradient_problem(params);
  Conv2dProblem second = first;
  second.K = first.C;
  PlanLimits limits;
  limits.narrow = true;
  limits.aligned =
      are_vector_aligned({params.dz, params.mask, params.weight, params.x, params.matrix}) &&
      are_vector_aligned({params.x_scale, params.x_bias, params.x_floor});
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_conv(ConvOp::kDgrad, first, dtype, limits);
  if (plan.error) return {plan.error};
  plan.kernel = plan.generation == Generation::kSimt ? "bottleneck_expand_dgrad_simt_gemm"
                                                     : "bottleneck_expand_dgrad_sm80_gemm";
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Gradient = PixelRows<T, BitGate<T>>;
    using Activation = PixelRows<T, ScaleBiasRelu<T>>;
    using Filters = FilterColumns<T>;
    const BitGate<T> gate{params.mask, first.y_size() / 8};
    const auto with = [&](auto first_loop, auto second_loop) {
      using Mainloop = ExpandDgradMainloop<typename decltype(first_loop)::type,
                                           typename decltype(second_loop)::type>;
      const typename Mainloop::Params operands{
          {Gradient::of_output(params.dz, gate, first),
           Filters(params.weight, GradientClass(first, 0), first)},
          {Activation::of_input(params.x, activation_on_load<T>(params), params.problem),
           Filters(params.matrix, GradientClass(second, 0), second)},
          static_cast<const AccOf<T>*>(params.bias),
          first.C};
      return launch<Mainloop, T>(plan, operands, params, stream);
    };
    // Both GEMMs by the same kind of main loop.
    return with_mainloop<Gradient, Filters, true>(plan, [&](auto first_loop) {
      using First = typename decltype(first_loop)::type;
      return with(first_loop, MainloopTag<typename First::template With<Activation, Filters>>{});
    });
  });
}

}  // namespace rnc
