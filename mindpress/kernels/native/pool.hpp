// Threads that share out numbered pieces of work, and sleep when there is none.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

namespace mindpress {

class Pool {
 public:
  using Work = std::function<void(int64_t item, int worker)>;

  // The pool of this process. After a fork the child has none of the parent's threads, and locks
  // of the parent's pool may be held for ever: the child makes a pool of its own. Pools are never
  // freed, so that threads may still wait on one when the process ends.
  static Pool& instance() {
    static std::atomic<Pool*> current{nullptr};
    Pool* pool = current.load();
    if (pool != nullptr && pool->process_ == getpid()) return *pool;
    Pool* fresh = new Pool;
    if (current.compare_exchange_strong(pool, fresh)) return *fresh;
    delete fresh;  // another thread was first; this one has started nothing yet
    return *pool;
  }

  // Workers that `run` numbers: no more than items, since the others would be woken for nothing.
  static int workers(int threads, int64_t items) {
    return static_cast<int>(std::clamp<int64_t>(items, 1, std::max(threads, 1)));
  }

  // work(0, w) ... work(items - 1, w), in any order, on this thread (worker w = 0) and up to
  // workers() - 1 others (w from 1). One caller at a time gets the other threads; who comes
  // meanwhile does everything alone.
  void run(int threads, int64_t items, const Work& work) {
    std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
    const int helpers = workers(threads, items) - 1;
    if (helpers == 0 || !turn.try_lock()) {
      for (int64_t item = 0; item < items; ++item) work(item, 0);
      return;
    }
    offer(helpers, items, work);
    drain(0);
    withdraw();
  }

  // Threads that this pool has started so far.
  int started() {
    std::lock_guard<std::mutex> guard(mutex_);
    return started_;
  }

 private:
  void offer(int helpers, int64_t items, const Work& work) {
    std::lock_guard<std::mutex> guard(mutex_);
    while (started_ < helpers && start_one()) {
    }
    work_ = &work;
    items_ = items;
    next_ = 0;
    wanted_ = helpers;
    ++offer_;
    if (sleeping_ > 0) wake_.notify_all();
  }

  // Nothing is left to take. Threads that have not come yet are not waited for.
  void withdraw() {
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;
    lock.unlock();
    if (spin([this] { return working_ == 0; })) return;
    lock.lock();
    finished_.wait(lock, [this] { return working_ == 0; });
  }

  void drain(int worker) {
    for (int64_t item = next_++; item < items_; item = next_++) (*work_)(item, worker);
  }

  bool start_one() {
    try {
      std::thread([this, index = started_] { serve(index); }).detach();
    } catch (const std::system_error&) {
      return false;  // the system has no more threads to give: fewer do the same work
    }
    ++started_;
    return true;
  }

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      const auto offered = [&] { return offer_ != seen; };
      spin(offered);
      std::unique_lock<std::mutex> lock(mutex_);
      ++sleeping_;
      wake_.wait(lock, offered);
      --sleeping_;
      seen = offer_;
      if (index >= wanted_) continue;  // not for this one, or over already
      ++working_;
      lock.unlock();
      drain(index + 1);
      lock.lock();
      if (--working_ == 0) finished_.notify_all();
    }
  }

  // Waits a moment without sleeping: the layers of a model call one after the other, and waking a
  // thread takes as long as a small product. Whether `ready` came true.
  template <typename Ready>
  static bool spin(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (!ready()) {
      if (std::chrono::steady_clock::now() > end) return false;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    return true;
  }

  const pid_t process_ = getpid();
  std::mutex turn_;   // held by the caller whose work is offered
  std::mutex mutex_;  // guards every change below but those of next_
  std::condition_variable wake_, finished_;
  const Work* work_ = nullptr;
  int64_t items_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> offer_{0};
  std::atomic<int> working_{0};
  int started_ = 0, sleeping_ = 0, wanted_ = 0;
};

}  // namespace mindpress
