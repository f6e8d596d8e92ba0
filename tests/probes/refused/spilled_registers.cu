// Wants more registers than its launch bounds leave it.
#include "ptx/keywords.h"

__global__ void __launch_bounds__(1024, 2) spill(float* values) {
  float held[64];
  for (int i = 0; i < 64; ++i) held[i] = values[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int repeat = 0; repeat < 10; ++repeat) {
    for (int i = 0; i < 64; ++i) held[i] = held[i] * held[(i + 7) % 64] + held[(i + 3) % 64];
  }
  for (int i = 0; i < 64; ++i) values[i * 1024 + threadIdx.x] = held[i];
}
