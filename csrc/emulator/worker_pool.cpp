#include "emulator/worker_pool.h"

#include <algorithm>
#include <functional>
#include <new>
#include <thread>
#include <utility>

#include "emulator/fault_handler.h"

namespace rnc::emulator {

namespace {

constexpr uint32_t kMaxDefaultWorkers =
    16;  // each has up to 1024 guarded stacks; the system limits mappings

}  // namespace

uint32_t WorkerPool::workers(const Options& options) {
  if (options.workers > 0) return static_cast<uint32_t>(options.workers);
  return std::clamp(std::thread::hardware_concurrency(), 1u, kMaxDefaultWorkers);
}

void WorkerPool::start(uint32_t helpers, Job job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (workers_.size() < helpers) {
    workers_.push_back(std::make_unique<Worker>());
    std::thread(&WorkerPool::thread_main, this, std::ref(*workers_.back())).detach();
  }
  job_ = std::move(job);
  wanted_ = helpers;
  counters_ = Counters{};
  work_.notify_all();
}

void WorkerPool::finish(Counters& counters) {
  std::unique_lock<std::mutex> lock(mutex_);
  wanted_ = 0;
  idle_.wait(lock, [this] { return busy_ == 0; });
  job_ = nullptr;
  add(counters, counters_);
}

void WorkerPool::thread_main(Worker& worker) {
  const AlternateStack alternate_stack;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return wanted_ > 0; });
    --wanted_;
    ++busy_;
    lock.unlock();
    try {
      job_(worker);
    } catch (const std::bad_alloc&) {
      // This thread does not help; the launching thread runs every block that is left.
    }
    lock.lock();
    add(counters_, worker.counters);
    if (--busy_ == 0) idle_.notify_all();
  }
}

}  // namespace rnc::emulator
