// What blocks of a cluster may do to each other's shared memory, and when.
#pragma once

namespace rnc::emulator {

struct Block;
struct Fiber;

// Judges an access by `fiber` to the shared memory of `block`, another one of its cluster: that
// block must have started and must not exit before.
void visit_block(Fiber* fiber, Block& block, const void* pc);

// Tells the cluster barrier and the visits that a thread exits, or has exited.
void cluster_thread_exits(Fiber& fiber);
void cluster_thread_exited(Fiber& fiber);

}  // namespace rnc::emulator
