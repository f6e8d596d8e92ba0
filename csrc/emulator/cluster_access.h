// What blocks of a cluster may do to each other's shared memory, and when.
#pragma once

namespace rnc::emulator {

struct Block;
struct Fiber;

// The fiber starts something in the shared memory of `block`, another one of its cluster: that
// block must have started and must not have exited.
void reach_block(Fiber* fiber, const Block& block, const void* pc);

// The same of an access that is over when the fiber goes on: the block must not exit before it
// knows of it.
void visit_block(Fiber* fiber, Block& block, const void* pc);

// A thread is about to exit: what its block must have waited for.
void cluster_thread_exits(Fiber& fiber);

// A thread has exited: the cluster barrier may be complete without it.
void cluster_thread_exited(Fiber& fiber);

}  // namespace rnc::emulator
