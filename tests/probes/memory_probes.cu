// Loads and stores of every width, shuffles, votes, integer atomics and arithmetic.
#include "probe.cuh"

namespace rnc::probes {
namespace {

template <size_t kBytes>
struct alignas(kBytes) Bytes {
  unsigned char values[kBytes];
};

// Reverses 64 elements, once through each kind of load.
template <class T>
__global__ void __launch_bounds__(64) reverse_kernel(const __grid_constant__ ProbeParams p) {
  const T* in = reinterpret_cast<const T*>(p.in[0]);
  T* out = reinterpret_cast<T*>(p.out);
  const uint32_t from = 63 - threadIdx.x;
  ptx::store_global(out + threadIdx.x, ptx::load_global(in + from));
  ptx::store_global(out + 64 + threadIdx.x, ptx::load_global_nc(in + from));
}
RNC_PROBE(global_1_byte, reverse_kernel<uint8_t>, 1, 64)
RNC_PROBE(global_2_bytes, reverse_kernel<uint16_t>, 1, 64)
RNC_PROBE(global_4_bytes, reverse_kernel<uint32_t>, 1, 64)
RNC_PROBE(global_8_bytes, reverse_kernel<Bytes<8>>, 1, 64)
RNC_PROBE(global_16_bytes, reverse_kernel<Bytes<16>>, 1, 64)

// Reverses 64 elements through shared memory.
template <class T>
__global__ void __launch_bounds__(64)
    reverse_in_shared_kernel(const __grid_constant__ ProbeParams p) {
  struct Storage {
    T elements[64];
  };
  Storage& shared = dynamic_smem<Storage>();
  const T* in = reinterpret_cast<const T*>(p.in[0]);
  ptx::store_shared(&shared.elements[63 - threadIdx.x], ptx::load_global(in + threadIdx.x));
  __syncthreads();
  ptx::store_global(reinterpret_cast<T*>(p.out) + threadIdx.x,
                    ptx::load_shared(&shared.elements[threadIdx.x]));
}
RNC_PROBE(shared_4_bytes, reverse_in_shared_kernel<uint32_t>, 1, 64, 64 * 4)
RNC_PROBE(shared_8_bytes, reverse_in_shared_kernel<Bytes<8>>, 1, 64, 64 * 8)
RNC_PROBE(shared_16_bytes, reverse_in_shared_kernel<Bytes<16>>, 1, 64, 64 * 16)

// Every kind of shuffle in segments of 32, 16 and 8 lanes, then one of 8 bytes.
__global__ void __launch_bounds__(32) shuffle_kernel(const __grid_constant__ ProbeParams p) {
  const uint32_t lane = threadIdx.x;
  const uint32_t value = ptx::load_global(p.in[0] + lane);
  uint32_t* out = p.out + lane;
  for (int width = 32; width >= 8; width /= 2) {
    ptx::store_global(out, __shfl_sync(kAllLanes, value, static_cast<int>(lane * 5 % 32), width));
    ptx::store_global(out + 32, __shfl_up_sync(kAllLanes, value, 3, width));
    ptx::store_global(out + 64, __shfl_down_sync(kAllLanes, value, 3, width));
    ptx::store_global(out + 96, __shfl_xor_sync(kAllLanes, value, 5, width));
    out += 128;
  }
  const unsigned long long wide = static_cast<unsigned long long>(value) << 32 | lane;
  const unsigned long long other = __shfl_xor_sync(kAllLanes, wide, 9);
  ptx::store_global(out, static_cast<uint32_t>(other));
  ptx::store_global(out + 32, static_cast<uint32_t>(other >> 32));
}
RNC_PROBE(shuffle, shuffle_kernel, 1, 32)

// Votes of the warp, and of its two parts apart.
__global__ void __launch_bounds__(32) vote_kernel(const __grid_constant__ ProbeParams p) {
  const uint32_t lane = threadIdx.x;
  const uint32_t value = ptx::load_global(p.in[0] + lane);
  for (int bit = 0; bit < 4; ++bit) {
    const int predicate = (value >> bit) & 1;
    uint32_t* out = p.out + bit * 128 + lane;
    ptx::store_global(out, __ballot_sync(kAllLanes, predicate));
    ptx::store_global(out + 32, static_cast<uint32_t>(__any_sync(kAllLanes, predicate) != 0));
    ptx::store_global(out + 64, static_cast<uint32_t>(__all_sync(kAllLanes, predicate) != 0));
    const uint32_t part = lane < 11 ? 0x7FFu : ~0x7FFu;
    const uint32_t votes =
        lane < 11 ? __ballot_sync(0x7FFu, predicate) : __ballot_sync(~0x7FFu, predicate);
    ptx::store_global(out + 96, votes & part);
  }
}
RNC_PROBE(vote, vote_kernel, 1, 32)

struct AtomicStorage {
  unsigned words[7];
  unsigned swapped[64];
  int smallest, largest;
  unsigned long long sum;
};

// All threads update the same words. Results that depend on the order of threads are not kept.
__global__ void __launch_bounds__(64) atomic_kernel(const __grid_constant__ ProbeParams p) {
  AtomicStorage& shared = dynamic_smem<AtomicStorage>();
  const uint32_t thread = threadIdx.x;
  const unsigned value = ptx::load_global(p.in[0] + thread);
  // Give every word its start.
  if (thread < 7) shared.words[thread] = thread == 1 || thread == 3 ? kAllLanes : 0;
  shared.swapped[thread] = thread;
  if (thread == 0) {
    shared.smallest = 0;
    shared.largest = 0;
    shared.sum = 0;
  }
  __syncthreads();
  // Update shared and global memory.
  atomicAdd(&shared.words[0], value);
  atomicMin(&shared.words[1], value);
  atomicMax(&shared.words[2], value);
  atomicAnd(&shared.words[3], value | 0x10u);
  atomicOr(&shared.words[4], value);
  atomicXor(&shared.words[5], value);
  const bool first = atomicCAS(&shared.words[6], 0u, thread + 1) == 0u;
  const unsigned before = atomicExch(&shared.swapped[thread], value);
  atomicMin(&shared.smallest, static_cast<int>(value) - 100);
  atomicMax(&shared.largest, static_cast<int>(value) - 100);
  atomicAdd(&shared.sum, static_cast<unsigned long long>(value) << 30);
  atomicAdd(p.out + 80, value);
  atomicMax(p.out + 81, value);
  // Exactly one thread's compare-and-swap found the word free.
  const uint32_t found = __ballot_sync(kAllLanes, first ? 1 : 0);
  if (thread % 32 == 0) atomicAdd(p.out + 82, static_cast<unsigned>(__popc(found)));
  __syncthreads();
  // Store what is left.
  if (thread < 6) ptx::store_global(p.out + thread, shared.words[thread]);
  if (thread == 6) ptx::store_global(p.out + 6, static_cast<uint32_t>(shared.smallest));
  if (thread == 7) ptx::store_global(p.out + 7, static_cast<uint32_t>(shared.largest));
  if (thread == 8) ptx::store_global(p.out + 8, static_cast<uint32_t>(shared.sum));
  if (thread == 9) ptx::store_global(p.out + 9, static_cast<uint32_t>(shared.sum >> 32));
  ptx::store_global(p.out + 16 + thread, shared.swapped[thread] * 100 + before);
}
RNC_PROBE(atomics, atomic_kernel, 1, 64, sizeof(AtomicStorage))

__global__ void __launch_bounds__(32) arithmetic_kernel(const __grid_constant__ ProbeParams p) {
  const uint32_t value = ptx::load_global(p.in[0] + threadIdx.x);
  uint32_t* out = p.out + threadIdx.x;
  ptx::store_global(out, static_cast<uint32_t>(__popc(value)));
  ptx::store_global(out + 32, static_cast<uint32_t>(__ffs(static_cast<int>(value))));
  ptx::store_global(out + 64, static_cast<uint32_t>(__clz(static_cast<int>(value))));
  ptx::store_global(out + 96, __umulhi(value, 0x9E3779B9u));
  ptx::store_global(out + 128,
                    static_cast<uint32_t>(__float_as_int(__int_as_float(static_cast<int>(value)))));
}
RNC_PROBE(arithmetic, arithmetic_kernel, 1, 32)

}  // namespace
}  // namespace rnc::probes
