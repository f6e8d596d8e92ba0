// A warp's tile of mma.sync: operands from swizzled shared memory, accumulators in registers.
#pragma once

#include "ptx/ldmatrix.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/shared_address.cuh"
#include "tile/smem_descriptor.h"

namespace rnc {

// Rows of one operand in shared memory, its depth contiguous in 64 bytes per row. The swizzle puts
// the 16-byte chunks of neighbouring rows into different banks.
template <int kRows>
struct alignas(1024) OperandSlice {
  static constexpr int kRowBytes = 64;
  static constexpr int kChunkBytes = 16;
  static constexpr int kChunksPerRow = kRowBytes / kChunkBytes;
  unsigned char bytes[kRows * kRowBytes];

  __device__ __forceinline__ const void* at(int row, int byte) const {
    return bytes + swizzle_offset(uint32_t(row * kRowBytes + byte), Swizzle::k64);
  }
};

template <ptx::Mma kKind, int kRows, int kColumns>
struct MmaWarpTile {
  using Fragments = ptx::MmaFragments<kKind>;
  using Operand = typename Fragments::Operand;
  using Accumulator = typename Fragments::Accumulator;
  static constexpr int kRowTiles = kRows / Fragments::kM;
  static constexpr int kColumnTiles = kColumns / Fragments::kN;
  // One instruction's depth is 32 bytes of an operand's row, whatever the type.
  static constexpr int kStepBytes = 32;
  static constexpr bool kLoadsMatrices = sizeof(Operand) == 4;
  static_assert(kRows % Fragments::kM == 0 && kColumns % (2 * Fragments::kN) == 0);

  Accumulator accumulators[kRowTiles][kColumnTiles][Fragments::kC];

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (auto& row : accumulators) RNC_UNROLL
    for (auto& tile : row) RNC_UNROLL
    for (auto& accumulator : tile) accumulator = Accumulator(0);
  }

  // Adds the products of rows first_row.. of `a` and rows first_column.. of `b` over one slice.
  template <int kRowsA, int kRowsB>
  __device__ __forceinline__ void multiply(const OperandSlice<kRowsA>& a, int first_row,
                                           const OperandSlice<kRowsB>& b, int first_column) {
    RNC_UNROLL
    for (int byte = 0; byte < OperandSlice<kRowsA>::kRowBytes; byte += kStepBytes) {
      Operand fragments_a[kRowTiles][Fragments::kA];
      Operand fragments_b[kColumnTiles][Fragments::kB];
      if constexpr (kLoadsMatrices) {
        load_matrices(fragments_a, fragments_b, a, first_row, b, first_column, byte);
      } else {
        load_elements(fragments_a, a, first_row, byte);
        load_elements(fragments_b, b, first_column, byte);
      }
      ptx::mma_tile<kKind>(accumulators, fragments_a, fragments_b);
    }
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
  // Four matrices of 8 rows of 16 bytes per instruction, in the order of the registers of one
  // fragment of A (rows 0-7, rows 8-15, both again 16 bytes further) or two of B (rows 0-7, the
  // same 16 bytes further, rows 8-15, the same).
  template <int kRowsA, int kRowsB>
  static __device__ __forceinline__ void load_matrices(
      Operand (&fragments_a)[kRowTiles][Fragments::kA],
      Operand (&fragments_b)[kColumnTiles][Fragments::kB], const OperandSlice<kRowsA>& a,
      int first_row, const OperandSlice<kRowsB>& b, int first_column, int byte) {
    const int lane = int(threadIdx.x) % 32;
    constexpr int kPairs = kColumnTiles / 2;
    uint32_t rows[kRowTiles + kPairs], matrices[kRowTiles + kPairs][4];
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      const int row = first_row + i * Fragments::kM + lane % 16;
      rows[i] = ptx::shared_address(a.at(row, byte + lane / 16 * 16));
    }
    RNC_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      const int row = first_column + j * 2 * Fragments::kN + lane % 8 + lane / 16 * 8;
      rows[kRowTiles + j] = ptx::shared_address(b.at(row, byte + lane / 8 % 2 * 16));
    }
    ptx::ldmatrix_tile(matrices, rows);
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) RNC_UNROLL
    for (int r = 0; r < 4; ++r) fragments_a[i][r] = matrices[i][r];
    RNC_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) RNC_UNROLL
    for (int r = 0; r < 2; ++r) fragments_b[j][r] = matrices[kRowTiles + j / 2][j % 2 * 2 + r];
  }

  // fp64 has no ldmatrix: lane l holds row l / 4, element l % 4 of each tile of 8 rows.
  template <int kTiles, int kRowsOfOperand>
  static __device__ __forceinline__ void load_elements(Operand (&fragments)[kTiles][1],
                                                       const OperandSlice<kRowsOfOperand>& slice,
                                                       int first_row, int byte) {
    const int lane = int(threadIdx.x) % 32;
    RNC_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      fragments[i][0] = *static_cast<const Operand*>(
          slice.at(first_row + i * 8 + lane / 4, byte + lane % 4 * int(sizeof(Operand))));
    }
  }
};

}  // namespace rnc
