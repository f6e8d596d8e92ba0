// Which SIMT main loop a plan means: they take operands of every dtype, on every GPU.
#pragma once

#include "kernels/conv/direct/depthwise.cuh"
#include "kernels/conv/direct/depthwise_wgrad.cuh"
#include "kernels/conv/simt/mainloop.cuh"
#include "kernels/conv/simt/row_sums.cuh"
#include "launch/implicit_gemm.h"

namespace rnc {

template <>
struct Mainloops<Generation::kSimt> {
  template <class T, bool kAlongDepth>
  static constexpr bool kMultiplies = true;

  // Calls launch(MainloopTag<Mainloop, OperandB>{}).
  template <class OperandA, class OperandB, TileRoom kRoom = TileRoom(), class Launch>
  static Status of_operands(const ConvPlan&, Launch&& launch) {
    return launch(MainloopTag<SimtMainloop<OperandA, OperandB>, OperandB>{});
  }

  // The same for windows of an image and filters.
  template <class Window, class Filter, class PackedFilter, TileRoom kRoom = TileRoom(),
            class Launch>
  static Status of_windows(const ConvPlan& plan, const Conv2dProblem&, Launch&& launch) {
    if (plan.path == ConvPath::kDepthwise) {
      return of_stored<DepthwiseMainloop<Window, Filter>, Window, Filter>(launch);
    }
    return of_operands<Window, Filter, kRoom>(plan, launch);
  }

  // The same for wgrad, of an activation that is seen through windows.
  template <class Gradient, class Activation, class Launch>
  static Status of_wgrad_windows(const ConvPlan& plan, Launch&& launch) {
    if (plan.path == ConvPath::kDepthwise) {
      return of_stored<DepthwiseWgradMainloop<Gradient, Activation>, Gradient, Activation>(launch);
    }
    return of_operands<Gradient, Activation>(plan, launch);
  }

  // The same of one that also sums A's rows.
  template <class OperandA, class OperandB, class Launch>
  static Status with_row_sums(const ConvPlan&, Launch&& launch) {
    return launch(MainloopTag<SimtRowSumsMainloop<OperandA, OperandB>, OperandB>{});
  }

 private:
  // The same by a main loop that takes stored gradients only.
  template <class Mainloop, class OperandA, class OperandB, class Launch>
  static Status of_stored(Launch&& launch) {
    if constexpr (OperandA::Prologue::kHasCompanion) {
      return {
          "batch norm's backward is not applied on load by depthwise convolutions: store the "
          "gradient"};
    } else {
      return launch(MainloopTag<Mainloop, OperandB>{});
    }
  }
};

}  // namespace rnc
