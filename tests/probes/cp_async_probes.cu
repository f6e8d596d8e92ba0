// cp.async of every size, with zero-fill, and its commit groups.
#include "probe.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/shared_address.cuh"

namespace rnc::probes {
namespace {

template <int kBytes>
struct CopyStorage {
  alignas(16) uint32_t chunks[64 * kBytes / 4 + 4];  // the last 16 bytes stay untouched
};

// Thread t copies in[1][t] bytes of chunk t of in[0] and zero-fills the rest of it.
template <int kBytes>
__global__ void __launch_bounds__(64) cp_async_kernel(const __grid_constant__ ProbeParams p) {
  CopyStorage<kBytes>& shared = dynamic_smem<CopyStorage<kBytes>>();
  constexpr uint32_t kWords = sizeof(shared.chunks) / 4;
  fill(shared.chunks, kUntouched, kWords);
  __syncthreads();
  const uint32_t chunk = 63 - threadIdx.x;
  ptx::cp_async<kBytes>(ptx::shared_address(shared.chunks) + chunk * kBytes,
                        reinterpret_cast<const char*>(p.in[0]) + threadIdx.x * kBytes,
                        ptx::load_global(p.in[1] + threadIdx.x));
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();
  copy_out(p.out, shared.chunks, kWords);
}
RNC_PROBE(cp_async_4, cp_async_kernel<4>, 1, 64, sizeof(CopyStorage<4>))
RNC_PROBE(cp_async_8, cp_async_kernel<8>, 1, 64, sizeof(CopyStorage<8>))
RNC_PROBE(cp_async_16, cp_async_kernel<16>, 1, 64, sizeof(CopyStorage<16>))

struct GroupStorage {
  alignas(16) uint32_t stages[4][64][4];
};

// Four groups, each read as soon as it must be complete; the last two by waiting for everything.
__global__ void __launch_bounds__(64)
    cp_async_groups_kernel(const __grid_constant__ ProbeParams p) {
  GroupStorage& shared = dynamic_smem<GroupStorage>();
  const uint32_t thread = threadIdx.x;
  for (uint32_t stage = 0; stage < 4; ++stage) {
    ptx::cp_async<16>(ptx::shared_address(shared.stages[stage][thread]),
                      p.in[0] + (stage * 64 + thread) * 4);
    if (stage < 3) ptx::cp_async_commit();
  }
  const auto store = [&](uint32_t stage) {
    for (uint32_t i = 0; i < 4; ++i) {
      ptx::store_global(p.out + (stage * 64 + thread) * 4 + i, shared.stages[stage][thread][i]);
    }
  };
  ptx::cp_async_wait<2>();
  store(0);
  ptx::cp_async_wait<1>();
  store(1);
  ptx::cp_async_wait_all();
  store(2);
  store(3);
}
RNC_PROBE(cp_async_groups, cp_async_groups_kernel, 1, 64, sizeof(GroupStorage))

}  // namespace
}  // namespace rnc::probes
