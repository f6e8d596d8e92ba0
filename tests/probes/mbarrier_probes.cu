// mbarrier phases within a block, elect.sync and setmaxnreg.
#include "probe.cuh"
#include "ptx/fence.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/warpgroup.cuh"

namespace rnc::probes {
namespace {

constexpr uint32_t kPhases = 5;

struct PhaseStorage {
  ptx::Mbarrier barrier;
  uint32_t values[2][128];
};

// Five phases of a barrier of 128 threads. Warp 0 arrives by one instruction, warp 1 by two of
// which each has half of the lanes. What the waits let through is another thread's value of that
// phase.
__global__ void __launch_bounds__(128) mbarrier_kernel(const __grid_constant__ ProbeParams p) {
  PhaseStorage& shared = dynamic_smem<PhaseStorage>();
  const uint32_t thread = threadIdx.x, warp = thread / 32;
  uint32_t* seen = p.out + kPhases * 128;
  // Ask a new barrier about its first phase, and about the one before, which counts as completed.
  if (thread == 0) {
    ptx::mbarrier_init(shared.barrier, 128, "barrier");
    ptx::fence_mbarrier_init();
    ptx::store_global(seen, static_cast<uint32_t>(ptx::mbarrier_try_wait(shared.barrier, 1)));
    ptx::store_global(seen + 1, static_cast<uint32_t>(ptx::mbarrier_try_wait(shared.barrier, 0)));
  }
  __syncthreads();
  for (uint32_t phase = 0; phase < kPhases; ++phase) {
    uint32_t (&values)[128] = shared.values[phase % 2];
    values[thread] = ptx::load_global(p.in[0] + phase * 128 + thread);
    if (warp == 1) {
      ptx::mbarrier_arrive_if(shared.barrier, thread % 2 == 0);
      ptx::mbarrier_arrive_if(shared.barrier, thread % 2 == 1);
    } else {
      ptx::mbarrier_arrive(shared.barrier);
    }
    ptx::mbarrier_wait(shared.barrier, phase % 2);
    ptx::store_global(p.out + phase * 128 + thread, values[127 - thread]);
  }
  __syncthreads();
  // Ask about the last phase again, and invalidate the barrier: its place can hold something else.
  if (thread == 0) {
    ptx::store_global(seen + 2, static_cast<uint32_t>(ptx::mbarrier_try_wait(shared.barrier, 0)));
    ptx::store_global(seen + 3, static_cast<uint32_t>(ptx::mbarrier_try_wait(shared.barrier, 1)));
    ptx::mbarrier_invalidate(shared.barrier);
    ptx::mbarrier_init(shared.barrier, 1, "second barrier");
    ptx::mbarrier_arrive(shared.barrier);
    ptx::store_global(seen + 4, static_cast<uint32_t>(ptx::mbarrier_try_wait(shared.barrier, 0)));
  }
}
RNC_PROBE(mbarrier_phases, mbarrier_kernel, 1, 128, sizeof(PhaseStorage))

// Which lane is elected is the hardware's choice: what counts is that there is one.
__global__ void __launch_bounds__(128) elect_kernel(const __grid_constant__ ProbeParams p) {
  const uint32_t thread = threadIdx.x;
  const uint32_t leaders = __ballot_sync(kAllLanes, ptx::elect_one() ? 1 : 0);
  ptx::store_global(p.out + thread, static_cast<uint32_t>(__popc(leaders)));
  if (ptx::elect_one()) ptx::store_global(p.out + 128 + thread / 32, 1000 + thread / 32);
}
RNC_PROBE(elect_one, elect_kernel, 1, 128)

struct RegisterStorage {
  uint32_t values[128];
};

// Three warpgroups share out the registers of the block: one gives, two take. Only where the launch
// bounds fix the number of blocks does ptxas know how many registers there are.
__global__ void __launch_bounds__(384, 1)
    set_max_registers_kernel(const __grid_constant__ ProbeParams p) {
  RegisterStorage& shared = dynamic_smem<RegisterStorage>();
  const uint32_t thread = threadIdx.x % 128, group = threadIdx.x / 128;
  if (group == 0) {
    ptx::set_max_registers_decrease<40>();
    shared.values[thread] = ptx::load_global(p.in[0] + thread);
  } else {
    ptx::set_max_registers_increase<232>();
  }
  __syncthreads();
  ptx::store_global(p.out + threadIdx.x, shared.values[thread] * (group + 1));
}
RNC_PROBE(set_max_registers, set_max_registers_kernel, 1, 384, sizeof(RegisterStorage))

}  // namespace
}  // namespace rnc::probes
