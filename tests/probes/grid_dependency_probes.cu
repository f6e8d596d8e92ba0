// Programmatic dependent launch: kernels that start early read what those before them write late.
#include "probe.cuh"
#include "ptx/grid_dependency.cuh"

namespace rnc::probes {
namespace {

constexpr uint32_t kBlocks = 4, kThreads = 64, kWords = kBlocks * kThreads;
constexpr int kSteps = 20000;

__device__ __forceinline__ uint32_t own_word() { return blockIdx.x * kThreads + threadIdx.x; }

// out[0] = in[0], stirred long enough for the kernel behind it to begin: each step needs the one
// before. Nothing to wait for: it is launched as any other kernel.
__global__ void __launch_bounds__(kThreads) stir_kernel(const __grid_constant__ ProbeParams p) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  uint32_t word = ptx::load_global(p.in[0] + own_word());
  for (int step = 0; step < kSteps; ++step) word = word * 1664525u + 1013904223u;
  ptx::store_global(p.out + own_word(), word);
}

// out[1] = out[0] backwards, plus one.
__global__ void __launch_bounds__(kThreads) turn_kernel(const __grid_constant__ ProbeParams p) {
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();
  const uint32_t from = kWords - 1 - own_word();
  ptx::store_global(p.out + kWords + own_word(), ptx::load_global_input(p.out + from) + 1);
}

// out[2] = out[1] less out[0]: waiting for the kernel before is waiting for the one before that.
__global__ void __launch_bounds__(kThreads) compare_kernel(const __grid_constant__ ProbeParams p) {
  ptx::grid_dependency_wait();
  const uint32_t first = ptx::load_global_input(p.out + own_word());
  const uint32_t second = ptx::load_global_input(p.out + kWords + own_word());
  ptx::store_global(p.out + 2 * kWords + own_word(), second - first);
}

Status launch_chain(const LaunchArguments& arguments) {
  const auto launch = [&](auto kernel, Start start) {
    return launch_kernel("grid_dependency", kernel, Dim3{kBlocks, 1, 1}, Dim3{kThreads, 1, 1}, 0,
                         nullptr, probe_params(arguments), Dim3{}, 1, start);
  };
  Status status = launch(stir_kernel, Start::kLate);
  if (status.ok()) status = launch(turn_kernel, Start::kEarly);
  if (status.ok()) status = launch(compare_kernel, Start::kEarly);
  return status;
}
const KernelRegistration registration{"grid_dependency", launch_chain};

}  // namespace
}  // namespace rnc::probes
