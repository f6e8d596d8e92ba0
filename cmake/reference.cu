// What it costs to compile this is the unit of the build's cost (benchmarks/guard.py): the machine
// cancels out of the quotient. It stands alone and must never change: with it, every committed
// figure would. Like the kernels it is a register-tiled matrix product, several times.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

template <class T, int kRows, int kColumns, int kDepth>
__global__ void __launch_bounds__(256) reference_kernel(const T* a, const T* b, T* d, int n) {
  float sum[kRows][kColumns] = {};
  const int row = int(blockIdx.x * blockDim.x + threadIdx.x) * kRows;
  const int column = int(blockIdx.y) * kColumns;
  for (int depth = 0; depth < n; depth += kDepth) {
    float left[kRows][kDepth], right[kColumns][kDepth];
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        left[i][k] = row + i < n && depth + k < n ? float(a[(row + i) * n + depth + k]) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        right[j][k] = column + j < n ? float(b[(column + j) * n + depth + k]) : 0.0f;
      }
    }
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[i][j] += left[i][k] * right[j][k];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (row + i < n && column + j < n) d[(row + i) * n + column + j] = T(sum[i][j]);
    }
  }
}

template <class T>
void launch(const T* a, const T* b, T* d, int n) {
  reference_kernel<T, 4, 4, 4><<<1, 256>>>(a, b, d, n);
  reference_kernel<T, 4, 8, 4><<<1, 256>>>(a, b, d, n);
  reference_kernel<T, 8, 4, 4><<<1, 256>>>(a, b, d, n);
  reference_kernel<T, 8, 8, 2><<<1, 256>>>(a, b, d, n);
  reference_kernel<T, 8, 8, 4><<<1, 256>>>(a, b, d, n);
}

}  // namespace

void compile_everything() {
  launch<float>(nullptr, nullptr, nullptr, 0);
  launch<__half>(nullptr, nullptr, nullptr, 0);
  launch<__nv_bfloat16>(nullptr, nullptr, nullptr, 0);
}
