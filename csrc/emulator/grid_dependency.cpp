#include "emulator/grid_dependency.h"

#include "emulator/fiber.h"

namespace rnc::emulator {

void grid_dependency_wait() { self()->must_wait_for_grids = false; }

void check_grid_dependency_at_exit(const Fiber& fiber) {
  if (!fiber.must_wait_for_grids || launch_of(&fiber).options.check == 0) return;
  report(&fiber,
         "exits without grid_dependency_wait, in a launch that may start early: the launch behind "
         "it may then start before those ahead of it are over");
}

}  // namespace rnc::emulator
