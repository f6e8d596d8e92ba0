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
      RNC_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        load_a(fragments_a[i], a, first_row + i * Fragments::kM, byte);
      }
      RNC_UNROLL
      for (int j = 0; j < kColumnTiles; j += 2) {
        load_b(fragments_b[j], fragments_b[j + 1], b, first_column + j * Fragments::kN, byte);
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
  // Rows row..row + kM - 1 of A. Each 8 x 16-byte matrix is one register: rows 0-7, rows 8-15, then
  // both again 16 bytes further.
  template <int kRowsA>
  static __device__ __forceinline__ void load_a(Operand (&fragment)[Fragments::kA],
                                                const OperandSlice<kRowsA>& a, int row, int byte) {
    const int lane = int(threadIdx.x) % 32;
    if constexpr (kLoadsMatrices) {
      const void* matrix_row = a.at(row + lane % 16, byte + lane / 16 * 16);
      ptx::ldmatrix<4>(fragment, ptx::shared_address(matrix_row));
    } else {
      fragment[0] = load_element(a, row, byte);
    }
  }

  // Rows row..row + kN - 1 of B and the kN rows after them.
  template <int kRowsB>
  static __device__ __forceinline__ void load_b(Operand (&first)[Fragments::kB],
                                                Operand (&second)[Fragments::kB],
                                                const OperandSlice<kRowsB>& b, int row, int byte) {
    const int lane = int(threadIdx.x) % 32;
    if constexpr (kLoadsMatrices) {
      const void* matrix_row = b.at(row + lane % 8 + lane / 16 * 8, byte + lane / 8 % 2 * 16);
      uint32_t matrices[4];
      ptx::ldmatrix<4>(matrices, ptx::shared_address(matrix_row));
      first[0] = matrices[0];
      first[1] = matrices[1];
      second[0] = matrices[2];
      second[1] = matrices[3];
    } else {
      first[0] = load_element(b, row, byte);
      second[0] = load_element(b, row + Fragments::kN, byte);
    }
  }

  // fp64 has no ldmatrix: lane l holds row l / 4, element l % 4.
  template <int kRowsOfOperand>
  static __device__ __forceinline__ Operand load_element(const OperandSlice<kRowsOfOperand>& slice,
                                                         int row, int byte) {
    const int lane = int(threadIdx.x) % 32;
    return *static_cast<const Operand*>(
        slice.at(row + lane / 4, byte + lane % 4 * int(sizeof(Operand))));
  }
};

}  // namespace rnc
