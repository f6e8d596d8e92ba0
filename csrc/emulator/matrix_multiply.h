// The arithmetic behind the matrix instructions: operands widened to float, one multiply-add after
// another.
#pragma once

#include <cstdint>

namespace rnc::emulator {

// Vectors of the compiler, so that no instruction set is named.
using Float8 [[gnu::vector_size(32), gnu::may_alias]] = float;
using Word8 [[gnu::vector_size(32), gnu::may_alias]] = uint32_t;
using Half8 [[gnu::vector_size(16), gnu::may_alias]] = uint16_t;

// How the bits of an operand are read.
enum class ElementType : int32_t { kBfloat16, kFloat16, kTensorFloat32 };

inline Float8 widen_bfloat16(Word8 bits) { return reinterpret_cast<Float8>(bits << 16); }

// By multiplication: a float16's exponent and mantissa, moved to where a float has them, are its
// value times 2^-112, also below the smallest normal one.
inline Float8 widen_float16(Word8 bits) {
  const Word8 magnitude = (bits & 0x7FFFu) << 13;
  const auto scaled = reinterpret_cast<Word8>(reinterpret_cast<Float8>(magnitude) * 0x1p112f);
  const auto not_finite = reinterpret_cast<Word8>(magnitude >= (0x7C00u << 13));
  return reinterpret_cast<Float8>(scaled | (not_finite & 0x7F800000u) | (bits & 0x8000u) << 16);
}

// The tensor cores read 10 bits of a tf32 operand's mantissa and ignore the rest.
inline Float8 truncate_to_tensor_float32(Word8 bits) {
  return reinterpret_cast<Float8>(bits & 0xFFFFE000u);
}

// Widens 8 consecutive 16-bit elements, given as their bits.
inline Float8 widen(Half8 bits, ElementType type) {
  const Word8 words = __builtin_convertvector(bits, Word8);
  return type == ElementType::kBfloat16 ? widen_bfloat16(words) : widen_float16(words);
}

// C[m][n] += the sum over k of A[k][m] B[k][n]: k ascending, one fused multiply-add each, so that a
// result does not depend on how instructions were put together. m is a multiple of 4; n, the
// strides (in elements) and the addresses are multiples of 8 floats.
void multiply_accumulate(float* c, int64_t c_stride, const float* a, int64_t a_stride,
                         const float* b, int64_t b_stride, int32_t m, int32_t n, int32_t k);

}  // namespace rnc::emulator
