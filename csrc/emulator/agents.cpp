// Families that have no asynchronous operations yet complete none.
#include "emulator/agents.h"

namespace rnc::emulator {

[[gnu::weak]] bool wgmma_complete_one(Cluster&) { return false; }

}  // namespace rnc::emulator
