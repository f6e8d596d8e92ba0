#include "emulator/mbarrier.h"

#include <string>

#include "emulator/mbarrier_state.h"
#include "emulator/scheduler.h"

namespace rnc::emulator {

void Mbarriers::clear() { states.clear(); }

bool wake_pollers(Cluster&) { return false; }

std::string describe_mbarrier(const Cluster& cluster, uint32_t slot) {
  const MbarrierState& state = cluster.mbarriers.states[slot];
  std::string text = "mbarrier ";
  if (state.name != nullptr) text += std::string("'") + state.name + "' ";
  text += format("at offset %u of shared memory", state.offset);
  if (cluster.size > 1) text += format(" of block %u of the cluster", state.block->rank);
  return text;
}

}  // namespace rnc::emulator
