// A warp's tile of mma.sync: operands from swizzled shared memory, accumulators in registers.
#pragma once

#include "ptx/ldmatrix.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/tensor_float32.cuh"
#include "tile/operand_slice.cuh"

namespace rnc {

template <ptx::Mma kKind, int kRows, int kColumns>
struct MmaWarpTile {
  using Fragments = ptx::MmaFragments<kKind>;
  using Operand = typename Fragments::Operand;
  using Accumulator = typename Fragments::Accumulator;
  static constexpr int kRowTiles = kRows / Fragments::kM;
  static constexpr int kColumnTiles = kColumns / Fragments::kN;
  // One instruction's depth is 32 bytes of an operand's row, whatever the type: 2 chunks of 4.
  static constexpr int kSteps = 2;
  static constexpr bool kIsTensorFloat32 = kKind == ptx::Mma::kM16N8K8TensorFloat32;
  // ldmatrix moves 32-bit elements as pairs of 16-bit ones, so it cannot transpose them.
  template <class Slice>
  static constexpr bool kLoadsMatrices =
      sizeof(Operand) == 4 && (Slice::kDepthIsContiguous || !kIsTensorFloat32);
  static_assert(kRows % Fragments::kM == 0 && kColumns % (2 * Fragments::kN) == 0);

  Accumulator accumulators[kRowTiles][kColumnTiles][Fragments::kC];

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (auto& row : accumulators) RNC_UNROLL
    for (auto& tile : row) RNC_UNROLL
    for (auto& accumulator : tile) accumulator = Accumulator(0);
  }

  // Adds the products of rows first_row.. of `a` and rows first_column.. of `b` over one slice.
  template <class SliceA, class SliceB>
  __device__ __forceinline__ void multiply(const SliceA& a, int first_row, const SliceB& b,
                                           int first_column) {
    multiply(a, first_row, b, first_column, [](auto&, int) {});
  }

  // The same; change(fragments, step) sees A's fragments of half a slice as they are about to
  // be multiplied.
  template <class SliceA, class SliceB, class Change>
  __device__ __forceinline__ void multiply(const SliceA& a, int first_row, const SliceB& b,
                                           int first_column, Change&& change) {
    RNC_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      multiply_step(a, first_row, b, first_column, step, change);
    }
  }

  // The same over one step of the slice.
  template <class SliceA, class SliceB>
  __device__ __forceinline__ void multiply_step(const SliceA& a, int first_row, const SliceB& b,
                                                int first_column, int step) {
    multiply_step(a, first_row, b, first_column, step, [](auto&, int) {});
  }

  template <class SliceA, class SliceB, class Change>
  __device__ __forceinline__ void multiply_step(const SliceA& a, int first_row, const SliceB& b,
                                                int first_column, int step, Change&& change) {
    Operand fragments_a[kRowTiles][Fragments::kA];
    Operand fragments_b[kColumnTiles][Fragments::kB];
    if constexpr (kLoadsMatrices<SliceA> && kLoadsMatrices<SliceB>) {
      load_matrices(fragments_a, a, first_row, fragments_b, b, first_column, step);
    } else {
      load_a(fragments_a, a, first_row, step);
      load_elements<Fragments::kN>(fragments_b, b, first_column, step);
    }
    round(fragments_a);
    round(fragments_b);
    change(fragments_a, step);
    ptx::mma_tile<kKind>(accumulators, fragments_a, fragments_b);
  }

  // Calls fn(column, accumulator) for the calling lane's accumulators.
  template <class Fn>
  __device__ __forceinline__ void for_each(Fn&& fn) {
    const int lane = int(threadIdx.x) % 32;
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) RNC_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) RNC_UNROLL
    for (int c = 0; c < Fragments::kC; ++c) {
      fn(j * Fragments::kN + lane % 4 * 2 + c % 2, accumulators[i][j][c]);
    }
  }

  __device__ __forceinline__ void add(const MmaWarpTile& other) {
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) RNC_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) RNC_UNROLL
    for (int c = 0; c < Fragments::kC; ++c) accumulators[i][j][c] += other.accumulators[i][j][c];
  }

  // Calls fn(row, column, first, second) for the calling lane's accumulators; they come in pairs of
  // neighbouring columns.
  template <class Fn>
  __device__ __forceinline__ void for_each_pair(Fn&& fn) const {
    const int lane = int(threadIdx.x) % 32;
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) RNC_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) RNC_UNROLL
    for (int c = 0; c < Fragments::kC; c += 2) {
      fn(i * Fragments::kM + lane / 4 + c * 4, j * Fragments::kN + lane % 4 * 2,
         accumulators[i][j][c], accumulators[i][j][c + 1]);
    }
  }

 private:
  // Four matrices of 8 x 16 bytes per instruction, in the order of the registers of one fragment of
  // A (rows 0-7, rows 8-15, both again one chunk of depth further) or two of B (rows 0-7, the same
  // one chunk further, rows 8-15, the same).
  template <class SliceA, class SliceB>
  static __device__ __forceinline__ void load_matrices(
      Operand (&fragments_a)[kRowTiles][Fragments::kA], const SliceA& a, int first_row,
      Operand (&fragments_b)[kColumnTiles][Fragments::kB], const SliceB& b, int first_column,
      int step) {
    const int matrix = int(threadIdx.x) % 32 / 8;
    constexpr int kPairs = kColumnTiles / 2;
    uint32_t rows[kRowTiles + kPairs], matrices[kRowTiles + kPairs][4];
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) rows[i] = row_of_a(a, first_row, i, step);
    RNC_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      rows[kRowTiles + j] = matrix_row(b, first_column + j * 2 * Fragments::kN + matrix / 2 * 8,
                                       step * 2 + matrix % 2);
    }
    if constexpr (SliceA::kDepthIsContiguous == SliceB::kDepthIsContiguous) {
      ptx::ldmatrix_tile<!SliceA::kDepthIsContiguous>(matrices, rows);
    } else {
      using RowsA = uint32_t[kRowTiles];
      using RowsB = uint32_t[kPairs];
      using MatricesA = uint32_t[kRowTiles][4];
      using MatricesB = uint32_t[kPairs][4];
      ptx::ldmatrix_tile<!SliceA::kDepthIsContiguous>(reinterpret_cast<MatricesA&>(matrices),
                                                      reinterpret_cast<const RowsA&>(rows));
      ptx::ldmatrix_tile<!SliceB::kDepthIsContiguous>(
          reinterpret_cast<MatricesB&>(matrices[kRowTiles]),
          reinterpret_cast<const RowsB&>(rows[kRowTiles]));
    }
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) RNC_UNROLL
    for (int r = 0; r < 4; ++r) fragments_a[i][r] = matrices[i][r];
    RNC_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) RNC_UNROLL
    for (int r = 0; r < 2; ++r) fragments_b[j][r] = matrices[kRowTiles + j / 2][j % 2 * 2 + r];
  }

  template <class Slice>
  static __device__ __forceinline__ uint32_t row_of_a(const Slice& slice, int first_row, int tile,
                                                      int step) {
    const int matrix = int(threadIdx.x) % 32 / 8;
    return matrix_row(slice, first_row + tile * Fragments::kM + matrix % 2 * 8,
                      step * 2 + matrix / 2);
  }

  template <class Slice>
  static __device__ __forceinline__ uint32_t matrix_row(const Slice& slice, int first, int chunk) {
    return ptx::shared_address(slice.matrix_row(first, chunk, int(threadIdx.x) % 8));
  }

  // A alone, where B's elements are loaded one by one.
  template <class Slice>
  static __device__ __forceinline__ void load_a(Operand (&fragments)[kRowTiles][Fragments::kA],
                                                const Slice& slice, int first_row, int step) {
    if constexpr (kLoadsMatrices<Slice>) {
      uint32_t rows[kRowTiles];
      RNC_UNROLL
      for (int i = 0; i < kRowTiles; ++i) rows[i] = row_of_a(slice, first_row, i, step);
      ptx::ldmatrix_tile<!Slice::kDepthIsContiguous>(fragments, rows);
    } else {
      load_elements<Fragments::kM>(fragments, slice, first_row, step);
    }
  }

  // What ldmatrix cannot load. Lane l holds row l / 4, element l % 4 of 8 rows by 4 elements; the
  // registers of a tile run down its rows first, then along the depth.
  template <int kTileRows, int kTiles, int kRegisters, class Slice>
  static __device__ __forceinline__ void load_elements(Operand (&fragments)[kTiles][kRegisters],
                                                       const Slice& slice, int first_row,
                                                       int step) {
    constexpr int kDown = kTileRows / 8;
    const int lane = int(threadIdx.x) % 32;
    RNC_UNROLL
    for (int i = 0; i < kTiles; ++i) RNC_UNROLL
    for (int r = 0; r < kRegisters; ++r) {
      fragments[i][r] = slice.template element<Operand>(first_row + lane / 4, lane % 4,
                                                        i * kTileRows + r % kDown * 8,
                                                        step * Fragments::kK + r / kDown * 4);
    }
  }

  // The instruction would cut floats down to TF32.
  template <int kTiles, int kRegisters>
  static __device__ __forceinline__ void round(Operand (&fragments)[kTiles][kRegisters]) {
    if constexpr (kIsTensorFloat32) {
      RNC_UNROLL
      for (auto& tile : fragments) RNC_UNROLL
      for (auto& element : tile) element = ptx::round_to_tensor_float32(element);
    }
  }
};

}  // namespace rnc
