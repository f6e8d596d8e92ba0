// Which main loop for Hopper's tensor cores a plan means. Those of other generations come with an
// address arithmetic for each kind of operand; here the tensor maps have it, so that windows and
// pixels share their kernels.
#pragma once

#include "kernels/conv/sm90/halo_mainloop.cuh"
#include "kernels/conv/sm90/mainloop.cuh"
#include "kernels/conv/sm90/pixel_product.cuh"
#include "launch/sm90/halo_pixels.h"
#include "launch/sm90/persistent_gemm.h"
#include "launch/sm90/tma_operands.h"

namespace rnc {

template <>
struct Mainloops<Generation::kSm90> {
  // wgmma transposes operands of 16 bits alone.
  template <class T, bool kAlongDepth>
  static constexpr bool kMultiplies = sizeof(T) == 2 || (kAlongDepth && std::is_same_v<T, float>);

  template <class Tile, class OperandA, class OperandB>
  using Of =
      Sm90Mainloop<Tile,
                   TmaPixels<typename OperandA::Element, typename OperandA::Prologue, Tile::kRows>,
                   TmaFilters<typename OperandB::Element, Tile::kColumns,
                              OperandB::kDepthIsContiguous, Tile::kClusterBlocks>>;

  template <class Window, class Filter>
  using Halo = Sm90HaloMainloop<
      Sm90HaloTile<Window::Prologue::kHasCompanion>,
      HaloPixels<typename Window::Element, typename Window::Prologue>,
      TmaFilters<typename Filter::Element, HaloSquare::kChannels, Filter::kDepthIsContiguous, 1>>;

  // Boxes of the pixels that a product sums over.
  template <class Operand>
  using Summed = TmaPixels<typename Operand::Element, typename Operand::Prologue, kPanelRows>;
  template <class Tile, class OperandA, class OperandB, bool kSumsRows>
  using Product = Sm90PixelProductMainloop<Tile, Summed<OperandA>, Summed<OperandB>, kSumsRows>;

  // Calls launch(MainloopTag<Mainloop, OperandB>{}).
  template <class OperandA, class OperandB, TileRoom kRoom = TileRoom(), class Launch>
  static Status of_operands(const ConvPlan& plan, Launch&& launch) {
    if constexpr (!OperandA::kDepthIsContiguous) {
      return of_products<OperandA, OperandB, false>(plan, launch);
    } else {
      constexpr bool kIsPlain = OperandA::Prologue::kChangesNothing;
      constexpr bool kIsFprop = OperandB::kDepthIsContiguous;
      const auto with_tile = [&](auto tile) {
        return launch(MainloopTag<Of<decltype(tile), OperandA, OperandB>, OperandB>{});
      };
      // dgrad adds both of its GEMMs to one set of accumulators.
      constexpr bool kHasOneSet = !(kRoom.second_gemm && kIsFprop);
      // Neither what is changed in shared memory nor an operand of two tensors leaves room for 256
      // columns.
      using Prologue = typename OperandA::Prologue;
      constexpr bool kHasWide =
          kIsPlain || (SliceChannels<Prologue>::kAreThere && !Prologue::kHasCompanion);
      if constexpr (kHasOneSet && kHasWide) {
        if (plan.tile_n == Sm90WideTile::kColumns) return with_tile(Sm90WideTile{});
      }
      if constexpr (kHasOneSet) {
        if (plan.tile_n == Sm90LargeTile::kColumns) return with_tile(Sm90LargeTile{});
      }
      constexpr bool kHasTwin = kIsPlain && !kRoom.large_epilogue;
      return with_tile(std::conditional_t<kHasTwin, Sm90NarrowTwinTile, Sm90NarrowTile>{});
    }
  }

  // The same for windows of an image and filters.
  template <class Window, class Filter, class PackedFilter, TileRoom kRoom = TileRoom(),
            class Launch>
  static Status of_windows(const ConvPlan& plan, const Conv2dProblem&, Launch&& launch) {
    if constexpr (sizeof(typename Window::Element) == 2) {
      if (plan.path == ConvPath::kHalo) return launch(MainloopTag<Halo<Window, Filter>, Filter>{});
    }
    return of_operands<Window, Filter, kRoom>(plan, launch);
  }

  // The same for wgrad, of an activation that is seen through windows.
  template <class Gradient, class Activation, class Launch>
  static Status of_wgrad_windows(const ConvPlan& plan, Launch&& launch) {
    return of_products<Gradient, Activation, false>(plan, launch);
  }

  // The same of one that also sums A's rows.
  template <class OperandA, class OperandB, class Launch>
  static Status with_row_sums(const ConvPlan& plan, Launch&& launch) {
    return of_products<OperandA, OperandB, true>(plan, launch);
  }

 private:
  template <class OperandA, class OperandB, bool kSumsRows, class Launch>
  static Status of_products(const ConvPlan& plan, Launch&& launch) {
    const auto with_tile = [&](auto tile) {
      using Mainloop = Product<decltype(tile), OperandA, OperandB, kSumsRows>;
      return launch(MainloopTag<Mainloop, OperandB>{});
    };
    if (plan.tile_m == Sm90FlatTile::kRows) return with_tile(Sm90FlatTile{});
    return with_tile(Sm90SingleTile{});
  }
};

}  // namespace rnc
