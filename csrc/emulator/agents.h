// What completes asynchronous operations while no thread asks for it. The scheduler calls these;
// each returns whether it completed something.
#pragma once

namespace rnc::emulator {

struct Cluster;

// The oldest tensor copy in flight, or any one. Called when no thread of the cluster can run and,
// under random completion, now and then.
bool tma_complete_one(Cluster& cluster, bool random);

// Called now and then under random completion; otherwise these complete when their issuer waits.
bool wgmma_complete_one(Cluster& cluster);
bool cp_async_complete_one(Cluster& cluster);

}  // namespace rnc::emulator
