// OS threads that help to run blocks. They are started once and wait between launches.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "emulator/fiber.h"

namespace rnc::emulator {

// Never destroyed: its threads wait until the process ends.
class WorkerPool {
 public:
  using Job = std::function<void(Worker&)>;

  // OS threads a launch may use, the launching one included.
  static uint32_t workers(const Options& options);

  // Up to `helpers` threads call the job, each with its own worker, as soon as they wake.
  void start(uint32_t helpers, Job job);

  // Keeps further threads from joining and waits for those that did; adds up what their workers
  // counted.
  void finish(Counters& counters);

 private:
  void thread_main(Worker& worker);

  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable idle_;
  std::vector<std::unique_ptr<Worker>> workers_;  // one per thread
  Job job_;
  uint32_t wanted_ = 0;  // threads that may still join the job
  uint32_t busy_ = 0;
  Counters counters_{};
};

}  // namespace rnc::emulator
