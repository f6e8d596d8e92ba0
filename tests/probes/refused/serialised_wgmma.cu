// Touches an accumulator between wgmma instructions that could be in flight together.
#include "ptx/keywords.h"
#include "ptx/wgmma.cuh"

using namespace rnc;

__global__ void __launch_bounds__(128) serialise(float* sums, uint64_t a, uint64_t b) {
  float accumulators[4] = {};
  ptx::wgmma_fence();
  for (int step = 0; step < 4; ++step) {
    ptx::wgmma_ss<bfloat16, 8>(accumulators, a, b, true);
    accumulators[0] += 1.0f;
    ptx::wgmma_commit();
  }
  ptx::wgmma_wait<0>();
  for (int i = 0; i < 4; ++i) sums[threadIdx.x * 4 + i] = accumulators[i];
}
