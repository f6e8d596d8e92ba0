#include "emulator/matrix_fragments.h"

#include <cstring>

namespace rnc::emulator {

namespace {

constexpr int32_t kThreadsPerRow = 4;  // values of t
constexpr int32_t kRowsPerTile = 8;    // values of g

// Writes one register of every lane: rows 2t and 2t + 1 (16-bit pairs) or row t (tf32) of `out`,
// column g.
void gather_register(OperandRegisters lanes, int32_t index, ElementType type, float* out,
                     int64_t stride) {
  for (int32_t t = 0; t < kThreadsPerRow; ++t) {
    Word8 words;
    for (int32_t g = 0; g < kRowsPerTile; ++g) words[g] = lanes[g * kThreadsPerRow + t][index];
    if (type == ElementType::kTensorFloat32) {
      *reinterpret_cast<Float8*>(out + t * stride) = truncate_to_tensor_float32(words);
      continue;
    }
    auto* const even = reinterpret_cast<Float8*>(out + 2 * t * stride);
    auto* const odd = reinterpret_cast<Float8*>(out + (2 * t + 1) * stride);
    if (type == ElementType::kBfloat16) {
      *even = widen_bfloat16(words);
      *odd = widen_bfloat16(words >> 16);
    } else {
      *even = widen_float16(words);
      *odd = widen_float16(words >> 16);
    }
  }
}

// Rows of k that one register of the warp holds.
int32_t depth_of_register(ElementType type) {
  return type == ElementType::kTensorFloat32 ? kThreadsPerRow : 2 * kThreadsPerRow;
}

// A lane's place in a tile of C: element (row, column) is the first of a pair, (row + 8, column) of
// another.
struct Pair {
  explicit Pair(uint32_t lane) : row(lane / kThreadsPerRow), column(2 * (lane % kThreadsPerRow)) {}
  int64_t row;
  int64_t column;
};

}  // namespace

void gather_accumulators(const float* registers, uint32_t lane, int32_t n_tiles, float* c,
                         int64_t stride) {
  const Pair pair(lane);
  float* upper = c + pair.row * stride + pair.column;
  float* lower = upper + kRowsPerTile * stride;
  for (int32_t j = 0; j < n_tiles; ++j) {
    std::memcpy(upper + 8 * j, registers + 4 * j, 2 * sizeof(float));
    std::memcpy(lower + 8 * j, registers + 4 * j + 2, 2 * sizeof(float));
  }
}

void scatter_accumulators(float* registers, uint32_t lane, int32_t n_tiles, const float* c,
                          int64_t stride) {
  const Pair pair(lane);
  const float* upper = c + pair.row * stride + pair.column;
  const float* lower = upper + kRowsPerTile * stride;
  for (int32_t j = 0; j < n_tiles; ++j) {
    std::memcpy(registers + 4 * j, upper + 8 * j, 2 * sizeof(float));
    std::memcpy(registers + 4 * j + 2, lower + 8 * j, 2 * sizeof(float));
  }
}

void gather_a(OperandRegisters lanes, int32_t first, ElementType type, float* out, int64_t stride) {
  const int32_t depth = depth_of_register(type);
  for (int32_t i = 0; i < 4; ++i) {
    float* const quarter = out + (i / 2) * depth * stride + (i % 2) * kRowsPerTile;
    gather_register(lanes, first + i, type, quarter, stride);
  }
}

void gather_b(OperandRegisters lanes, int32_t first, ElementType type, float* out, int64_t stride) {
  const int32_t depth = depth_of_register(type);
  gather_register(lanes, first, type, out, stride);
  gather_register(lanes, first + 1, type, out + depth * stride, stride);
}

void gather_half_a(OperandRegisters lanes, int32_t first, ElementType type, float* out,
                   int64_t stride) {
  gather_register(lanes, first, type, out, stride);
  gather_register(lanes, first + 1, type, out + kRowsPerTile, stride);
}

void gather_half_b(OperandRegisters lanes, int32_t first, ElementType type, float* out,
                   int64_t stride) {
  gather_register(lanes, first, type, out, stride);
}

}  // namespace rnc::emulator
