// griddepcontrol.wait: whether a thread of a launch that may start early has waited for the kernels
// before it. Launches run one after the other here, so that there is nothing to wait for.
#pragma once

namespace rnc::emulator {

struct Fiber;

#pragma GCC visibility push(hidden)

void grid_dependency_wait();

#pragma GCC visibility pop

// Reports a thread that exits without having waited.
void check_grid_dependency_at_exit(const Fiber& fiber);

}  // namespace rnc::emulator
