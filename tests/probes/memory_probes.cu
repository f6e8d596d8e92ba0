// Global loads and stores of every width, shuffles, votes, atomics.
#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"

namespace rnc {
namespace {

struct Params {
  const uint32_t* in;
  uint32_t* out;
};

__global__ void __launch_bounds__(32) ballot_probe(const __grid_constant__ Params p) {
  ptx::store_global(p.out + threadIdx.x, ptx::load_global(p.in + threadIdx.x));
}

Status launch_ballot(const LaunchArguments& arguments) {
  return launch_kernel("ballot", ballot_probe, Dim3{1, 1, 1}, Dim3{32, 1, 1}, 0, nullptr,
                       Params{arguments.buffer<uint32_t>(0), arguments.buffer<uint32_t>(1)});
}
const KernelRegistration ballot{"ballot", launch_ballot};

}  // namespace
}  // namespace rnc
