// The kernels of the expand's dgrad behind batch norm in closed form, with the main loops of any
// generation.
#pragma once

#include "kernels/bottleneck/bottleneck_expand_dgrad.cuh"
#include "launch/bottleneck_expand_dgrad.h"
#include "launch/implicit_gemm.h"

namespace rnc {
namespace bottleneck_expand_dgrad_kernels {

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

}  // namespace bottleneck_expand_dgrad_kernels

template <Generation kGeneration>
Status bottleneck_expand_dgrad_by(const ConvPlan& plan, DType dtype,
                                  const BottleneckExpandDgradParams& params, Stream stream) {
  const Conv2dProblem first = gradient_problem(params);
  Conv2dProblem second = first;
  second.K = first.C;
  return with_element_type<kGeneration>(dtype, [&](auto type) {
    using T = decltype(type);
    using Gradient = PixelRows<T, BitGate<T>>;
    using Activation = PixelRows<T, ScaleBiasRelu<T>>;
    using Filters = FilterColumns<T>;
    const BitGate<T> gate{params.mask, first.y_size() / 8};
    // Both GEMMs by the same kind of main loop.
    return Mainloops<kGeneration>::template of_operands<
        Gradient, Filters, TileRoom{.second_gemm = true}>(plan, [&](auto tag) {
      using First = typename decltype(tag)::type;
      using Mainloop =
          ExpandDgradMainloop<First, typename First::template With<Activation, Filters>>;
      Filters matrices(params.matrix, GradientClass(second, 0), second);
      matrices.matrices = params.matrices;
      const typename Mainloop::Params operands{
          {Gradient::of_output(params.dz, gate, first),
           Filters(params.weight, GradientClass(first, 0), first)},
          {Activation::of_input(params.x, activation_on_load<T>(params), params.problem), matrices},
          static_cast<const AccOf<T>*>(params.bias),
          first.C};
      return bottleneck_expand_dgrad_kernels::launch<Mainloop, T>(plan, operands, params, stream);
    });
  });
}

}  // namespace rnc
