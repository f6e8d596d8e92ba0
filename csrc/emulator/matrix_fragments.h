// How mma.sync and wgmma spread matrices over the registers of a warp, and back. Inside, operands
// are floats in rows of k, [k][m] and [k][n]; g is lane / 4 and t is lane % 4.
#pragma once

#include <cstdint>

#include "emulator/matrix_multiply.h"

namespace rnc::emulator {

// The registers of one operand, lane by lane.
using OperandRegisters = const uint32_t* const*;

// The lane's part of a 16 x 8n tile of C: for each 8 columns, (g, 2t), (g, 2t + 1), (g + 8, 2t), (g
// + 8, 2t + 1).
void gather_accumulators(const float* registers, uint32_t lane, int32_t n_tiles, float* c,
                         int64_t stride);
void scatter_accumulators(float* registers, uint32_t lane, int32_t n_tiles, const float* c,
                          int64_t stride);

// A of m16n8k16 (16-bit) and of m16n8k8 (tf32): 4 registers from `first` on, to `out` [k][16].
void gather_a(OperandRegisters lanes, int32_t first, ElementType type, float* out, int64_t stride);
// B of m16n8k16 (16-bit) and of m16n8k8 (tf32): 2 registers from `first` on, to `out` [k][8].
void gather_b(OperandRegisters lanes, int32_t first, ElementType type, float* out, int64_t stride);
// A and B of m16n8k8 of 16-bit elements: 2 registers and 1.
void gather_half_a(OperandRegisters lanes, int32_t first, ElementType type, float* out,
                   int64_t stride);
void gather_half_b(OperandRegisters lanes, int32_t first, ElementType type, float* out,
                   int64_t stride);

}  // namespace rnc::emulator
