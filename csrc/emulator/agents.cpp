// Families that have no asynchronous operations yet complete none.
#include "emulator/agents.h"

namespace rnc::emulator {

[[gnu::weak]] bool tma_complete_one(Cluster&, bool) { return false; }
[[gnu::weak]] bool wgmma_complete_one(Cluster&) { return false; }
[[gnu::weak]] bool cp_async_complete_one(Cluster&) { return false; }

}  // namespace rnc::emulator
