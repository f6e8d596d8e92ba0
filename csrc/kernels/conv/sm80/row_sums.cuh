// The Ampere main loop that also sums the rows of A, in the same pass over it.
#pragma once

#include <type_traits>

#include "kernels/conv/sm80/mainloop.cuh"
#include "tile/mma_row_sums.cuh"

namespace rnc {

// Where B is A, as of a Gram matrix, a tile on the diagonal copies it once.
template <class Tile, class OperandA, class OperandB>
struct Sm80RowSumsMainloop : Sm80Mainloop<Tile, OperandA, OperandB> {
  using Mainloop = Sm80Mainloop<Tile, OperandA, OperandB>;
  using typename Mainloop::Acc;
  using Rows = RowsWithSums<typename Mainloop::Rows, Acc>;
  using Mainloop::kIsGram;
  static_assert(!kIsGram || Tile::kRows == Tile::kColumns, "a diagonal needs square tiles");

  MmaRowSums<MmaOfTrait<typename OperandA::Element>::kMma, Tile::kRows / Tile::kWarpsDown> row_sums;

  __device__ __forceinline__ void run(const typename Mainloop::Params& params, const GemmTile& at,
                                      typename Mainloop::Storage& shared) {
    this->tile.clear();
    row_sums.clear();
    const bool b_is_a = kIsGram && at.first_row == at.first_column;
    Mainloop::for_each_stage(params, at, shared, b_is_a, [&](int stage) {
      const auto& a = shared.a[stage].slice;
      if constexpr (kIsGram) {
        multiply(a, b_is_a ? a : shared.b[stage].slice);
      } else {
        multiply(a, shared.b[stage].slice);
      }
    });
  }

  __device__ __forceinline__ void stage(int part, Rows& rows) const {
    Mainloop::stage(part, rows);
    const int first = Mainloop::warp_row() - part * kStatsTileRows;
    if (!sums_rows() || first < 0 || first >= kStatsTileRows) return;
    row_sums.for_each([&](int row, Acc sum) { rows.sums[first + row] = sum; });
  }

 private:
  template <class SliceA, class SliceB>
  __device__ __forceinline__ void multiply(const SliceA& a, const SliceB& b) {
    this->tile.multiply(a, Mainloop::warp_row(), b, Mainloop::warp_column(),
                        [&](const auto& fragments_a, int) {
                          if (sums_rows()) row_sums.add(fragments_a);
                        });
  }

  // Of the warps with the same rows the first one sums them.
  static __device__ __forceinline__ bool sums_rows() { return Mainloop::warp_column() == 0; }
};

}  // namespace rnc
