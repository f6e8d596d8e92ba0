// From a plan and its operands to a launch of the implicit GEMM kernel, by main loops of any
// generation.
#pragma once

#include <initializer_list>

#include "kernels/conv/conv_params.h"
#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/conv/operands.cuh"
#include "launch/generations.h"
#include "launch/launch_kernel.h"

namespace rnc {

// The shape of a pass that is one GEMM. problem: as the GEMM has it.
inline GemmShape gemm_shape(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem) {
  const bool rows_are_filters = op == ConvOp::kWgrad;
  return {int32_t(problem.gemm_m(op)),
          int32_t(problem.gemm_n(op)),
          int32_t(problem.gemm_k(op)),
          problem.groups,
          plan.splits,
          plan.depth_per_split,
          rows_are_filters ? problem.filters_per_group() : 0,
          rows_are_filters ? 0 : int32_t(problem.gemm_n(op)),
          FastDivmod(int32_t(plan.column_tiles)),
          0,
          plan.diagonal,
          false};
}

// The kernel that runs a main loop: this one has a block for each tile. Generations may have
// others.
template <class Mainloop>
struct GemmKernel {
  template <class RowPlaces, int kGemms, class Epilogue>
  static Status launch(const ConvPlan& plan,
                       const ImplicitGemmParams<Mainloop, RowPlaces, kGemms, Epilogue>& params,
                       int gemms, Stream stream) {
    const Dim3 grid = {uint32_t(plan.grid[0]), uint32_t(plan.grid[1]), uint32_t(gemms)};
    return launch_kernel(plan.kernel, implicit_gemm_kernel<Mainloop, RowPlaces, kGemms, Epilogue>,
                         grid, Dim3{Mainloop::kThreads, 1, 1},
                         sizeof(ImplicitGemmStorage<Mainloop, Epilogue>), stream, params);
  }
};

template <class Mainloop, class RowPlaces, int kGemms, class Epilogue>
Status launch_gemms(const ConvPlan& plan,
                    const ImplicitGemmParams<Mainloop, RowPlaces, kGemms, Epilogue>& params,
                    int gemms, Stream stream) {
  return GemmKernel<Mainloop>::launch(plan, params, gemms, stream);
}

// A main loop and its second operand.
template <class Mainloop, class OperandB>
struct MainloopTag {
  using type = Mainloop;
  using B = OperandB;
};

// A main loop that takes the GEMM's rows in an order of its own.
template <class Mainloop>
concept OrdersRows = requires(const typename Mainloop::Params& operands) { operands.places(); };

// Which rows of the output its rows are.
template <class Mainloop>
auto row_places(const typename Mainloop::Params& operands) {
  if constexpr (OrdersRows<Mainloop>) {
    return operands.places();
  } else {
    return DenseRows{};
  }
}

// A pass that is one GEMM, by one main loop.
template <class Mainloop, class Epilogue>
Status launch_gemm(const ConvPlan& plan, const GemmShape& shape,
                   const typename Mainloop::Params& operands, const Epilogue& epilogue,
                   Stream stream) {
  auto places = row_places<Mainloop>(operands);
  const ImplicitGemmParams<Mainloop, decltype(places), 1, Epilogue> params{
      {{shape, operands, places}}, epilogue};
  return launch_gemms(plan, params, 1, stream);
}

// What an epilogue's tile has to leave room for.
template <class Epilogue>
inline constexpr TileRoom kRoomOf = {.large_epilogue = kIsLargeEpilogue<Epilogue>};

// The same by the generation's main loop for such operands.
template <Generation kGeneration, class OperandA, class OperandB, class Epilogue>
Status launch_implicit_gemm(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem,
                            const OperandA& a, const OperandB& b, const Epilogue& epilogue,
                            Stream stream) {
  return Mainloops<kGeneration>::template of_operands<OperandA, OperandB, kRoomOf<Epilogue>>(
      plan, [&](auto tag) {
        using Mainloop = typename decltype(tag)::type;
        return launch_gemm<Mainloop>(plan, gemm_shape(plan, op, problem), {a, b}, epilogue, stream);
      });
}

// Calls launch(prologue) with what turns a gradient of T as it is stored into the one to multiply.
template <class T, class Launch>
Status with_gradient_prologue(const BnBackwardOnLoad& on_load, int32_t K, Launch&& launch) {
  using Acc = AccOf<T>;
  if (!on_load.y) return launch(Identity<T>{});
  return launch(BnBackward<T>{
      static_cast<const T*>(on_load.y), static_cast<const Acc*>(on_load.coefficients),
      static_cast<const Acc*>(on_load.gate_scale), static_cast<const Acc*>(on_load.gate_bias), K});
}

// The same for an activation.
template <class T, class Launch>
Status with_activation_prologue(const void* scale, const void* bias, const void* floor,
                                Launch&& launch) {
  using Acc = AccOf<T>;
  if (!scale) return launch(Identity<T>{});
  return launch(ScaleBiasRelu<T>{static_cast<const Acc*>(scale), static_cast<const Acc*>(bias),
                                 static_cast<const Acc*>(floor)});
}

// What normalises x of a pass on load; off where it has no scale.
template <class T, class Params>
ScaleBiasRelu<T> activation_on_load(const Params& params) {
  using Acc = AccOf<T>;
  return {static_cast<const Acc*>(params.x_scale), static_cast<const Acc*>(params.x_bias),
          static_cast<const Acc*>(params.x_floor)};
}

// Calls launch(T{}) with the storage type behind `dtype`, of those that the generation multiplies.
// kAlongDepth: in memory, both operands run along the depth.
template <Generation kGeneration, bool kAlongDepth = false, class Launch>
Status with_element_type(DType dtype, Launch&& launch) {
  return visit_dtype(dtype, [&](auto type) -> Status {
    if constexpr (Mainloops<kGeneration>::template kMultiplies<decltype(type), kAlongDepth>) {
      return launch(type);
    } else {
      return {"these kernels have no product of such elements: the plan must not choose them"};
    }
  });
}

// Whether the epilogue's pieces of 8 columns are whole vectors in every row of a matrix that starts
// at each of `tensors` (null: absent) and of which a group has `group_columns` columns.
template <class T>
bool pieces_are_vectors(std::initializer_list<const void*> tensors, int64_t row_stride,
                        int64_t group_columns) {
  return are_vector_aligned(tensors) && rows_are_vectors<T>(row_stride) &&
         rows_are_vectors<T>(group_columns);
}

}  // namespace rnc
