// Asynchronous copies that break a rule, one each, beside a twin that breaks none.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "launch/tensor_map.h"
#include "ptx/cluster.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

namespace rnc {
namespace {

enum class Misuse {
  kNone,
  kMapNobodyMade,
  kMisalignedMap,
  kPrefetchOfMapNobodyMade,
  kTiledWithIm2colMap,
  kIm2colWithTiledMap,
  kWrongRank,
  kMisalignedDestination,
  kDestinationOutOfBounds,
  kBarrierNotInitialised,
  kBarrierNotFenced,
  kBarrierOutOfBounds,
  kStartOutsideBoundingBox,
  kOffsetTooLarge,
  kMulticastToNobody,
  kMulticastOutsideCluster,
  kStillInFlightAtExit,
  kStoreWithIm2colMap,
  kMisalignedSource,
  kStoreOfWhatNobodyWrote,
  kStoresOfBlocksConflict,
  kCopyIntoOtherBlock,
};

constexpr uint32_t kBoxBytes = 1024;

struct MisuseParams {
  ptx::TensorMap tiled;   // rank 2, boxes of kBoxBytes
  ptx::TensorMap im2col;  // rank 4, the same
  ptx::TensorMap nobody;
  const void* source;
};

struct MisuseStorage {
  alignas(128) float box[kBoxBytes / sizeof(float)];
  ptx::Mbarrier full;
};

template <Misuse kMisuse>
__device__ void issue(MisuseStorage& shared, const MisuseParams& p) {
  float* const box = shared.box;
  ptx::Mbarrier& full = shared.full;
  switch (kMisuse) {
    case Misuse::kMapNobodyMade:
      return ptx::tma_load(box, &p.nobody, full, {0, 0});
    case Misuse::kMisalignedMap: {
      const auto* bytes = reinterpret_cast<const unsigned char*>(&p.tiled);
      return ptx::tma_load(box, reinterpret_cast<const ptx::TensorMap*>(bytes + 16), full, {0, 0});
    }
    case Misuse::kPrefetchOfMapNobodyMade:
      return ptx::tma_prefetch(&p.nobody);
    case Misuse::kTiledWithIm2colMap:
      return ptx::tma_load(box, &p.im2col, full, {0, 0, 0, 0});
    case Misuse::kIm2colWithTiledMap:
      return ptx::tma_load_im2col(box, &p.tiled, full, {0, 0, 0, 0}, {0, 0});
    case Misuse::kWrongRank:
      return ptx::tma_load(box, &p.tiled, full, {0, 0, 0});
    case Misuse::kMisalignedDestination:
      return ptx::tma_load(box + 16, &p.tiled, full, {0, 0});
    case Misuse::kDestinationOutOfBounds:
      return ptx::tma_load(box + 64, &p.tiled, full, {0, 0});
    case Misuse::kBarrierOutOfBounds:
      return ptx::tma_load(box, &p.tiled, (&full)[1], {0, 0});
    case Misuse::kStartOutsideBoundingBox:
      return ptx::tma_load_im2col(box, &p.im2col, full, {0, 7, 0, 0}, {0, 0});
    case Misuse::kOffsetTooLarge:
      return ptx::tma_load_im2col(box, &p.im2col, full, {0, 0, 0, 0}, {0, 256});
    case Misuse::kMulticastToNobody:
      return ptx::tma_load_multicast(box, &p.tiled, full, {0, 0}, 0);
    case Misuse::kMulticastOutsideCluster:
      return ptx::tma_load_multicast(box, &p.tiled, full, {0, 0}, 2);
    case Misuse::kStoreWithIm2colMap:
      return ptx::tma_store(&p.im2col, box, {0, 0, 0, 0});
    case Misuse::kMisalignedSource:
      return ptx::tma_store(&p.tiled, box + 16, {0, 0});
    case Misuse::kStoreOfWhatNobodyWrote:
      ptx::tma_store(&p.tiled, box, {0, 0});
      ptx::tma_store_commit();
      return ptx::tma_store_wait<0>();
    case Misuse::kStoresOfBlocksConflict:
      for (float& value : shared.box) value = 1.0f;
      ptx::fence_proxy_async();
      ptx::tma_store(&p.tiled, box, {0, 0});
      ptx::tma_store_commit();
      return ptx::tma_store_wait<0>();
    case Misuse::kCopyIntoOtherBlock:
      return ptx::cp_async<16>(ptx::map_shared_rank(ptx::shared_address(box), 1), p.source);
    default:
      return ptx::tma_load_im2col(box, &p.im2col, full, {0, 0, 0, 0}, {1, 255});
  }
}

template <Misuse kMisuse>
__global__ void __launch_bounds__(1) misuse_kernel(const __grid_constant__ MisuseParams p) {
  MisuseStorage& shared = dynamic_smem<MisuseStorage>();
  if (kMisuse != Misuse::kBarrierNotInitialised) ptx::mbarrier_init(shared.full, 1, "full");
  if (kMisuse != Misuse::kBarrierNotFenced) ptx::fence_mbarrier_init();
  if (kMisuse != Misuse::kBarrierNotInitialised) {
    ptx::mbarrier_arrive_expect_tx(shared.full, kBoxBytes);
  }
  issue<kMisuse>(shared, p);
  if (kMisuse == Misuse::kStoresOfBlocksConflict) return;
  if (kMisuse != Misuse::kStillInFlightAtExit) ptx::mbarrier_wait(shared.full, 0);
}

// Buffers: a tensor of 8 images of 4 x 4 pixels of 8 floats.
template <Misuse kMisuse>
Status launch_misuse(const LaunchArguments& arguments) {
  MisuseParams params{};
  params.source = arguments.buffers[0];
  Status status = make_tiled_tensor_map(&params.tiled, {.base = arguments.buffers[0],
                                                        .element = kTensorElement<float>,
                                                        .rank = 2,
                                                        .dims = {32, 32},
                                                        .strides_bytes = {128},
                                                        .box = {32, 8}});
  if (!status.ok()) return status;
  status = make_im2col_tensor_map(&params.im2col, {.base = arguments.buffers[0],
                                                   .element = kTensorElement<float>,
                                                   .rank = 4,
                                                   .dims = {8, 4, 4, 8},
                                                   .strides_bytes = {32, 128, 512},
                                                   .lower = {-1, -1},
                                                   .upper = {-1, -1},
                                                   .channels = 8,
                                                   .pixels = 32});
  if (!status.ok()) return status;
  const bool two_blocks =
      kMisuse == Misuse::kStoresOfBlocksConflict || kMisuse == Misuse::kCopyIntoOtherBlock;
  const uint32_t cluster = kMisuse == Misuse::kCopyIntoOtherBlock ? 2 : 1;
  return launch_kernel("misuse", misuse_kernel<kMisuse>, Dim3{two_blocks ? 2u : 1u, 1, 1},
                       Dim3{1, 1, 1}, sizeof(MisuseStorage), nullptr, params, Dim3{cluster, 1, 1});
}

const KernelRegistration misuses[] = {
    {"misuse_none", launch_misuse<Misuse::kNone>},
    {"misuse_map_nobody_made", launch_misuse<Misuse::kMapNobodyMade>},
    {"misuse_misaligned_map", launch_misuse<Misuse::kMisalignedMap>},
    {"misuse_prefetch_of_map_nobody_made", launch_misuse<Misuse::kPrefetchOfMapNobodyMade>},
    {"misuse_tiled_with_im2col_map", launch_misuse<Misuse::kTiledWithIm2colMap>},
    {"misuse_im2col_with_tiled_map", launch_misuse<Misuse::kIm2colWithTiledMap>},
    {"misuse_wrong_rank", launch_misuse<Misuse::kWrongRank>},
    {"misuse_misaligned_destination", launch_misuse<Misuse::kMisalignedDestination>},
    {"misuse_destination_out_of_bounds", launch_misuse<Misuse::kDestinationOutOfBounds>},
    {"misuse_barrier_not_initialised", launch_misuse<Misuse::kBarrierNotInitialised>},
    {"misuse_barrier_not_fenced", launch_misuse<Misuse::kBarrierNotFenced>},
    {"misuse_barrier_out_of_bounds", launch_misuse<Misuse::kBarrierOutOfBounds>},
    {"misuse_start_outside_bounding_box", launch_misuse<Misuse::kStartOutsideBoundingBox>},
    {"misuse_offset_too_large", launch_misuse<Misuse::kOffsetTooLarge>},
    {"misuse_multicast_to_nobody", launch_misuse<Misuse::kMulticastToNobody>},
    {"misuse_multicast_outside_cluster", launch_misuse<Misuse::kMulticastOutsideCluster>},
    {"misuse_still_in_flight_at_exit", launch_misuse<Misuse::kStillInFlightAtExit>},
    {"misuse_store_with_im2col_map", launch_misuse<Misuse::kStoreWithIm2colMap>},
    {"misuse_misaligned_source", launch_misuse<Misuse::kMisalignedSource>},
    {"misuse_store_of_what_nobody_wrote", launch_misuse<Misuse::kStoreOfWhatNobodyWrote>},
    {"misuse_stores_of_blocks_conflict", launch_misuse<Misuse::kStoresOfBlocksConflict>},
    {"misuse_copy_into_other_block", launch_misuse<Misuse::kCopyIntoOtherBlock>},
};

}  // namespace
}  // namespace rnc
