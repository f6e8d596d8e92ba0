// What TMA instructions must obey, and what the race detector and the counters learn of them. All
// of it when the instruction is issued, so that it does not depend on when the data moves.
#pragma once

#include <cstdint>

#include "emulator/tma.h"
#include "emulator/tma_queue.h"

namespace rnc::emulator {

// Abandons the block unless the map is one, and fit for an instruction called `what`.
void check_map(const TensorMap* map, const char* what, const void* pc);
void check_map(const TensorMap* map, int32_t rank, bool im2col, const char* what, const void* pc);

// Abandons the block if an im2col load begins outside the map's bounding box, or its offsets are
// out of range.
void check_im2col(const TmaLoad& load, const void* pc);

// Abandons the block if a multicast names blocks that the cluster does not have.
void check_multicast(const TmaLoad& load, uint32_t cluster_size, const void* pc);

// To be called when the launch checks or counts.
void observe_global(const TmaOperation& operation);
void observe_destination(const TmaOperation& load);
void observe_source(const TmaOperation& store);

}  // namespace rnc::emulator
