// The kernels of the bottleneck's expand with its projection, with the main loops of any
// generation.
#pragma once

#include "kernels/bottleneck/bottleneck_expand.cuh"
#include "launch/implicit_gemm.h"

namespace rnc {
namespace bottleneck_expand_kernels {

// Off where nothing is normalised on load.
template <class T>
using Pixels = PixelRows<T, ScaleBiasRelu<T>>;

template <class SingleMainloop, class T>
Status launch_projection(const ConvPlan& plan, const Conv2dProblem& problem,
                         const BottleneckExpandParams& params, Stream stream) {
  using Acc = AccOf<T>;
  using Mainloop = ExpandProjectMainloop<SingleMainloop>;
  const typename Mainloop::Params operands{
      {Pixels<T>::of_input(params.x, activation_on_load<T>(params), problem),
       FilterRows<T>(params.weight, params.K, 1, params.C)},
      {Pixels<T>(params.residual,
                 {static_cast<const Acc*>(params.projection_x_scale),
                  static_cast<const Acc*>(params.projection_x_bias),
                  static_cast<const Acc*>(params.projection_x_floor)},
                 params.N, params.H, params.W, params.residual_C, params.residual_C, params.P,
                 params.Q, params.projection_stride, params.projection_stride),
       FilterRows<T>(params.projection_weight, params.K, 1, params.residual_C)},
      {static_cast<const Acc*>(params.scale), static_cast<const Acc*>(params.bias)},
      {static_cast<const Acc*>(params.projection_scale),
       static_cast<const Acc*>(params.projection_bias)},
      params.residual_C};
  using Epilogue = ScaleBiasAddReluStore<T, DenseResidual<T>>;
  Epilogue epilogue{};  // the main loop has scaled already
  epilogue.y = static_cast<T*>(params.z);
  epilogue.mask = params.mask;
  epilogue.row_stride = params.K;
  epilogue.relu = params.relu;
  epilogue.aligned = pieces_are_vectors<T>({params.z}, params.K, params.K);
  const ImplicitGemmParams<Mainloop, DenseRows, 1, Epilogue> kernel_params{
      {{gemm_shape(plan, ConvOp::kFprop, problem), operands, {}}}, epilogue};
  return launch_gemms(plan, kernel_params, 1, stream);
}

}  // namespace bottleneck_expand_kernels

template <Generation kGeneration>
Status expand_with_projection_by(const ConvPlan& plan, DType dtype, const Conv2dProblem& problem,
                                 const BottleneckExpandParams& params, Stream stream) {
  return with_element_type<kGeneration, true>(dtype, [&](auto type) {
    using T = decltype(type);
    using Pixels = bottleneck_expand_kernels::Pixels<T>;
    return Mainloops<kGeneration>::template of_operands<Pixels, FilterRows<T>,
                                                        TileRoom{.second_gemm = true}>(
        plan, [&](auto tag) {
          using Mainloop = typename decltype(tag)::type;
          return bottleneck_expand_kernels::launch_projection<Mainloop, T>(plan, problem, params,
                                                                           stream);
        });
  });
}

}  // namespace rnc
