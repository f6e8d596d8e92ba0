// Instructions that need a converged warp, elected leaders, and registers moved between warpgroups.
#include <cstdint>
#include <iterator>

#include "planted_faults.h"
#include "ptx/cluster.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/warpgroup.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kNotConverged,
  kPredicated,
  kPartOfTheWarpElects,
  kIncreaseBelow,
  kDecreaseAbove,
  kTooManyRegisters,
  kOneWarpDoesNot,
};

struct LeaderStorage {
  ptx::Mbarrier barrier;
};

// The elected lane arrives; then the warp meets in an .aligned instruction.
template <Fault kFault>
__global__ void __launch_bounds__(32) leader(const __grid_constant__ Params p) {
  LeaderStorage& shared = dynamic_smem<LeaderStorage>();
  if (threadIdx.x == 0) ptx::mbarrier_init(shared.barrier, 1, "barrier");
  __syncthreads();
  if (kFault == Fault::kPartOfTheWarpElects && threadIdx.x % 2 == 0) return;
  const bool elected = ptx::elect_one();
  if (kFault == Fault::kPredicated) {
    ptx::mbarrier_arrive_if(shared.barrier, elected);
  } else {
    if (elected) ptx::mbarrier_arrive(shared.barrier);
    if (kFault != Fault::kNotConverged) __syncwarp();
  }
  ptx::mbarrier_wait(shared.barrier, 0);  // by all lanes alike
  ptx::cluster_sync();
  atomicAdd(p.counts + threadIdx.x, elected ? 1 : 0);
  atomicAdd(p.counts + threadIdx.x, ptx::elect_one() ? 1 : 0);
}

// One warpgroup gives registers back, the two others take them.
template <Fault kFault>
__global__ void __launch_bounds__(384) registers(const __grid_constant__ Params p) {
  if (threadIdx.x < 128) {
    if (kFault == Fault::kIncreaseBelow) ptx::set_max_registers_increase<40>();
    ptx::set_max_registers_decrease<kFault == Fault::kDecreaseAbove ? 232 : 40>();
  } else if (kFault != Fault::kOneWarpDoesNot || threadIdx.x < 352) {
    ptx::set_max_registers_increase<kFault == Fault::kTooManyRegisters ? 240 : 232>();
  }
  atomicAdd(p.counts, 1);
}

constexpr size_t kLeader = sizeof(LeaderStorage);

constexpr Entry kEntries[] = {
    {"leader", leader<Fault::kNone>, kLeader},
    {"leader_predicated", leader<Fault::kPredicated>, kLeader},
    {"leader_not_converged", leader<Fault::kNotConverged>, kLeader},
    {"leader_half_a_warp", leader<Fault::kPartOfTheWarpElects>, kLeader},
    {"registers", registers<Fault::kNone>, 0},
    {"registers_increase_below", registers<Fault::kIncreaseBelow>, 0},
    {"registers_decrease_above", registers<Fault::kDecreaseAbove>, 0},
    {"registers_too_many", registers<Fault::kTooManyRegisters>, 0},
    {"registers_one_warp_does_not", registers<Fault::kOneWarpDoesNot>, 0},
};

}  // namespace

Table kernels_with_warpgroup_faults() { return {std::begin(kEntries), std::end(kEntries)}; }

}  // namespace rnc
