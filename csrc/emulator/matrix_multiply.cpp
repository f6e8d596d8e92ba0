#include "emulator/matrix_multiply.h"

namespace rnc::emulator {

namespace {

constexpr int32_t kRows = 4;   // of C, held in registers at a time
constexpr int32_t kLanes = 8;  // floats of a vector

// kRows x 8 kVectors elements of C.
template <int32_t kVectors>
inline void multiply_tile(float* c, int64_t c_stride, const float* a, int64_t a_stride,
                          const float* b, int64_t b_stride, int32_t k) {
  Float8 sums[kRows][kVectors];
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t j = 0; j < kVectors; ++j) {
      sums[row][j] = *reinterpret_cast<const Float8*>(c + row * c_stride + j * kLanes);
    }
  }
  for (; k > 0; --k, a += a_stride, b += b_stride) {
    Float8 columns[kVectors];
    for (int32_t j = 0; j < kVectors; ++j) {
      columns[j] = *reinterpret_cast<const Float8*>(b + j * kLanes);
    }
    for (int32_t row = 0; row < kRows; ++row) {
      for (int32_t j = 0; j < kVectors; ++j) sums[row][j] += columns[j] * a[row];
    }
  }
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t j = 0; j < kVectors; ++j) {
      *reinterpret_cast<Float8*>(c + row * c_stride + j * kLanes) = sums[row][j];
    }
  }
}

}  // namespace

void multiply_accumulate(float* c, int64_t c_stride, const float* a, int64_t a_stride,
                         const float* b, int64_t b_stride, int32_t m, int32_t n, int32_t k) {
  for (int32_t column = 0; column < n;) {
    const bool wide = n - column >= 2 * kLanes;
    for (int32_t row = 0; row < m; row += kRows) {
      float* const tile = c + row * c_stride + column;
      if (wide) {
        multiply_tile<2>(tile, c_stride, a + row, a_stride, b + column, b_stride, k);
      } else {
        multiply_tile<1>(tile, c_stride, a + row, a_stride, b + column, b_stride, k);
      }
    }
    column += wide ? 2 * kLanes : kLanes;
  }
}

}  // namespace rnc::emulator
