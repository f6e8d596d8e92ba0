// The tensor memory accelerator (sm_90): one thread moves a box of a tensor between global and
// shared memory. A load reports its bytes to an mbarrier; stores are put into groups that their
// thread waits for.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/tensor_map.cuh"

#if !defined(__CUDACC__)
#include "emulator/tma.h"
#endif

namespace rnc::ptx {

// Coordinates are in elements, innermost first, and may lie outside the tensor: what is outside is
// zero in a load and left out of a store. The shared side is 128-byte aligned. A load counts as the
// whole box, zeros included, on the barrier.

#if defined(__CUDACC__)

// Operands 0 to 2 are the destination, the map and the barrier; coordinates begin at 3.
#define RNC_TMA_LOAD(form, operands, ...)                                                        \
  asm volatile("cp.async.bulk.tensor." form " " operands ";" ::"r"(shared_address(destination)), \
               "l"(map), "r"(shared_address(&barrier)), __VA_ARGS__                              \
               : "memory")
#define RNC_TMA_TILE(rank, suffix, operands, ...)                                                  \
  RNC_TMA_LOAD(rank "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" suffix, operands, \
               __VA_ARGS__)
#define RNC_TMA_IM2COL(rank, suffix, operands, ...)                                        \
  RNC_TMA_LOAD(rank "d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes" suffix, \
               operands, __VA_ARGS__)
#define RNC_MULTICAST ".multicast::cluster"
// Operands 0 and 1 are the map and the source; coordinates begin at 2.
#define RNC_TMA_STORE(rank, operands, ...)                                                   \
  asm volatile("cp.async.bulk.tensor." rank "d.global.shared::cta.tile.bulk_group " operands \
               ";" ::"l"(map),                                                               \
               "r"(shared_address(source)), __VA_ARGS__                                      \
               : "memory")
#define RNC_COORDINATES_1 "r"(coordinates[0])
#define RNC_COORDINATES_2 RNC_COORDINATES_1, "r"(coordinates[1])
#define RNC_COORDINATES_3 RNC_COORDINATES_2, "r"(coordinates[2])
#define RNC_COORDINATES_4 RNC_COORDINATES_3, "r"(coordinates[3])
#define RNC_COORDINATES_5 RNC_COORDINATES_4, "r"(coordinates[4])
#define RNC_OFFSETS_1 "h"(offsets[0])
#define RNC_OFFSETS_2 RNC_OFFSETS_1, "h"(offsets[1])
#define RNC_OFFSETS_3 RNC_OFFSETS_2, "h"(offsets[2])

#endif

// Brings the map into the cache of descriptors, ahead of its first use.
__device__ __forceinline__ void tma_prefetch(const TensorMap* map) {
#if defined(__CUDACC__)
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#else
  emulator::tma_prefetch(map);
#endif
}

// Loads the box that begins at `coordinates`.
template <int kRank>
__device__ __forceinline__ void tma_load(void* destination, const TensorMap* map, Mbarrier& barrier,
                                         const int32_t (&coordinates)[kRank]) {
  static_assert(kRank >= 1 && kRank <= 5, "tensors have 1 to 5 dimensions");
#if defined(__CUDACC__)
  if constexpr (kRank == 1) {
    RNC_TMA_TILE("1", "", "[%0], [%1, {%3}], [%2]", RNC_COORDINATES_1);
  } else if constexpr (kRank == 2) {
    RNC_TMA_TILE("2", "", "[%0], [%1, {%3, %4}], [%2]", RNC_COORDINATES_2);
  } else if constexpr (kRank == 3) {
    RNC_TMA_TILE("3", "", "[%0], [%1, {%3, %4, %5}], [%2]", RNC_COORDINATES_3);
  } else if constexpr (kRank == 4) {
    RNC_TMA_TILE("4", "", "[%0], [%1, {%3, %4, %5, %6}], [%2]", RNC_COORDINATES_4);
  } else {
    RNC_TMA_TILE("5", "", "[%0], [%1, {%3, %4, %5, %6, %7}], [%2]", RNC_COORDINATES_5);
  }
#else
  emulator::tma_load({shared_address(destination), map, shared_address(&barrier), coordinates,
                      nullptr, kRank, 0, false});
#endif
}

// The same into several blocks of the cluster, bit r of `blocks` for rank r: data and completion
// arrive in each at the offsets that `destination` and `barrier` have in the executing block.
template <int kRank>
__device__ __forceinline__ void tma_load_multicast(void* destination, const TensorMap* map,
                                                   Mbarrier& barrier,
                                                   const int32_t (&coordinates)[kRank],
                                                   uint16_t blocks) {
  static_assert(kRank >= 1 && kRank <= 5, "tensors have 1 to 5 dimensions");
#if defined(__CUDACC__)
  if constexpr (kRank == 1) {
    RNC_TMA_TILE("1", RNC_MULTICAST, "[%0], [%1, {%3}], [%2], %4", RNC_COORDINATES_1, "h"(blocks));
  } else if constexpr (kRank == 2) {
    RNC_TMA_TILE("2", RNC_MULTICAST, "[%0], [%1, {%3, %4}], [%2], %5", RNC_COORDINATES_2,
                 "h"(blocks));
  } else if constexpr (kRank == 3) {
    RNC_TMA_TILE("3", RNC_MULTICAST, "[%0], [%1, {%3, %4, %5}], [%2], %6", RNC_COORDINATES_3,
                 "h"(blocks));
  } else if constexpr (kRank == 4) {
    RNC_TMA_TILE("4", RNC_MULTICAST, "[%0], [%1, {%3, %4, %5, %6}], [%2], %7", RNC_COORDINATES_4,
                 "h"(blocks));
  } else {
    RNC_TMA_TILE("5", RNC_MULTICAST, "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8",
                 RNC_COORDINATES_5, "h"(blocks));
  }
#else
  emulator::tma_load({shared_address(destination), map, shared_address(&barrier), coordinates,
                      nullptr, kRank, blocks, true});
#endif
}

// Loads the map's number of pixels, one after the other inside its bounding box from the base pixel
// {c, w, (h, (d,)) n} on, each shifted by `offsets`, w first: the column of one filter tap.
template <int kRank>
__device__ __forceinline__ void tma_load_im2col(void* destination, const TensorMap* map,
                                                Mbarrier& barrier,
                                                const int32_t (&coordinates)[kRank],
                                                const uint16_t (&offsets)[kRank - 2]) {
  static_assert(kRank >= 3 && kRank <= 5, "im2col tensors have 3 to 5 dimensions");
#if defined(__CUDACC__)
  if constexpr (kRank == 3) {
    RNC_TMA_IM2COL("3", "", "[%0], [%1, {%3, %4, %5}], [%2], {%6}", RNC_COORDINATES_3,
                   RNC_OFFSETS_1);
  } else if constexpr (kRank == 4) {
    RNC_TMA_IM2COL("4", "", "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}", RNC_COORDINATES_4,
                   RNC_OFFSETS_2);
  } else {
    RNC_TMA_IM2COL("5", "", "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10}",
                   RNC_COORDINATES_5, RNC_OFFSETS_3);
  }
#else
  emulator::tma_load({shared_address(destination), map, shared_address(&barrier), coordinates,
                      offsets, kRank, 0, false});
#endif
}

// tma_load_im2col into several blocks of the cluster, as tma_load_multicast.
template <int kRank>
__device__ __forceinline__ void tma_load_im2col_multicast(void* destination, const TensorMap* map,
                                                          Mbarrier& barrier,
                                                          const int32_t (&coordinates)[kRank],
                                                          const uint16_t (&offsets)[kRank - 2],
                                                          uint16_t blocks) {
  static_assert(kRank >= 3 && kRank <= 5, "im2col tensors have 3 to 5 dimensions");
#if defined(__CUDACC__)
  if constexpr (kRank == 3) {
    RNC_TMA_IM2COL("3", RNC_MULTICAST, "[%0], [%1, {%3, %4, %5}], [%2], {%6}, %7",
                   RNC_COORDINATES_3, RNC_OFFSETS_1, "h"(blocks));
  } else if constexpr (kRank == 4) {
    RNC_TMA_IM2COL("4", RNC_MULTICAST, "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9",
                   RNC_COORDINATES_4, RNC_OFFSETS_2, "h"(blocks));
  } else {
    RNC_TMA_IM2COL("5", RNC_MULTICAST, "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10}, %11",
                   RNC_COORDINATES_5, RNC_OFFSETS_3, "h"(blocks));
  }
#else
  emulator::tma_load({shared_address(destination), map, shared_address(&barrier), coordinates,
                      offsets, kRank, blocks, true});
#endif
}

// Stores the box that begins at `coordinates`. What the block's threads wrote to `source` must be
// fenced (fence_proxy_async) before a barrier that the storing thread passes.
template <int kRank>
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* source,
                                          const int32_t (&coordinates)[kRank]) {
  static_assert(kRank >= 1 && kRank <= 5, "tensors have 1 to 5 dimensions");
#if defined(__CUDACC__)
  if constexpr (kRank == 1) {
    RNC_TMA_STORE("1", "[%0, {%2}], [%1]", RNC_COORDINATES_1);
  } else if constexpr (kRank == 2) {
    RNC_TMA_STORE("2", "[%0, {%2, %3}], [%1]", RNC_COORDINATES_2);
  } else if constexpr (kRank == 3) {
    RNC_TMA_STORE("3", "[%0, {%2, %3, %4}], [%1]", RNC_COORDINATES_3);
  } else if constexpr (kRank == 4) {
    RNC_TMA_STORE("4", "[%0, {%2, %3, %4, %5}], [%1]", RNC_COORDINATES_4);
  } else {
    RNC_TMA_STORE("5", "[%0, {%2, %3, %4, %5, %6}], [%1]", RNC_COORDINATES_5);
  }
#else
  emulator::tma_store(map, shared_address(source), coordinates, kRank);
#endif
}

// Closes a group: the thread's stores since the previous one.
__device__ __forceinline__ void tma_store_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  emulator::tma_store_commit();
#endif
}

// Waits until all but the newest kGroups groups of this thread have read their sources, which may
// then be overwritten. The results need not be visible yet.
template <uint32_t kGroups>
__device__ __forceinline__ void tma_store_wait_read() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
#else
  emulator::tma_store_wait(kGroups, true);
#endif
}

// Waits until all but the newest kGroups groups of this thread are complete and visible to it.
template <uint32_t kGroups>
__device__ __forceinline__ void tma_store_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  emulator::tma_store_wait(kGroups, false);
#endif
}

#if defined(__CUDACC__)
#undef RNC_TMA_LOAD
#undef RNC_TMA_TILE
#undef RNC_TMA_IM2COL
#undef RNC_MULTICAST
#undef RNC_TMA_STORE
#undef RNC_COORDINATES_1
#undef RNC_COORDINATES_2
#undef RNC_COORDINATES_3
#undef RNC_COORDINATES_4
#undef RNC_COORDINATES_5
#undef RNC_OFFSETS_1
#undef RNC_OFFSETS_2
#undef RNC_OFFSETS_3
#endif

}  // namespace rnc::ptx
