// TMA: tiled and im2col tensor copies between global and shared memory.
#pragma once

#include <cstdint>

#include "emulator/tensor_map.h"

namespace rnc::emulator {

// One TMA load as the instruction states it.
struct TmaLoad {
  uint32_t destination;  // shared-window address in the executing block
  const TensorMap* map;
  uint32_t mbarrier;
  const int32_t* coordinates;  // rank of them, innermost first
  const uint16_t* offsets;     // im2col: rank - 2, W first; null: a tile
  int32_t rank;
  uint16_t blocks;  // multicast: the ranks in the cluster that receive the box
  bool multicast;
};

#pragma GCC visibility push(hidden)

void tma_prefetch(const TensorMap* map);
void tma_load(const TmaLoad& load);
void tma_store(const TensorMap* map, uint32_t source, const int32_t* coordinates, int32_t rank);
void tma_store_commit();
// `read_only`: until the sources were read (.read), not until the writes are visible.
void tma_store_wait(uint32_t newest_groups_left, bool read_only);

#pragma GCC visibility pop

}  // namespace rnc::emulator
