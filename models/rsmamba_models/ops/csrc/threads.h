// One parallel region at a time for each caller, on threads that wait between the calls.
//
// A call is over when its tasks are done, not when every thread has had a turn: one that has not
// woken up by then, because another program keeps its core, is not waited for. One that has lost
// its core in the middle of a task must be; where such waiting costs more than help is worth, the
// next calls do without, and more of them the more often it happens.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace rsmamba {

// Decaying states pass through the denormal numbers, which some processors handle a hundred times
// slower; they count as zero while one of these lives.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
#endif
};

// The waiting threads of this process. They are never stopped: they hold nothing but their stacks,
// and the end of the process ends them.
class Pool {
 public:
  // What callers share. A forked child has its parent's memory but none of its threads, and a mutex
  // that one of them may have held: it begins with a pool of its own.
  static Pool& mine() {
    static std::atomic<Pool*> current{nullptr};
    Pool* pool = current.load();
    while (!pool || pool->process_ != getpid()) {
      Pool* fresh = new Pool;
      if (current.compare_exchange_strong(pool, fresh)) return *fresh;
      delete fresh;
    }
    return *pool;
  }

  // Calls run(0) here and run(1), ..., run(helpers) on as many threads as come while it lasts. Each
  // of them does some of the tasks and returns how many.
  template <typename F>
  void share(std::int64_t tasks, int helpers, F& run) {
    if (alone_.load() > 0) {
      --alone_;
      run(0);
      return;
    }
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    Job job{[](void* f, int worker) { (*static_cast<F*>(f))(worker); }, &run, helpers};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(&job);
      while (threads_ < helpers) {
        try {
          std::thread(&Pool::serve, this).detach();
        } catch (...) {
          break;  // No more threads to be had: those that started do the work.
        }
        ++threads_;
      }
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    const std::int64_t done = run(0);
    const auto worked = Clock::now() - begin;
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
    left_.wait(lock, [&] { return job.active == 0; });
    // Alone, the caller would have needed worked * tasks / done. A helper that came late to find
    // nothing left to do cost nothing.
    const bool in_vain = 10 * done * (Clock::now() - begin) > 11 * tasks * worked;
    penalty_ = in_vain ? std::min(2 * penalty_ + 2, kMostAlone) : penalty_ / 2;
    if (in_vain) alone_ = penalty_;
  }

 private:
  struct Job {
    void (*call)(void*, int);
    void* function;
    int wanted;
    int joined = 0;
    int active = 0;
  };

  Pool() : process_(getpid()) {}

  Job* open_job() {
    for (Job* job : jobs_) {
      if (job->joined < job->wanted) return job;
    }
    return nullptr;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
      const int worker = ++job->joined;
      ++job->active;
      lock.unlock();
      job->call(job->function, worker);
      lock.lock();
      if (--job->active == 0) left_.notify_all();
    }
  }

  static constexpr int kMostAlone = 30;

  const pid_t process_;
  std::atomic<int> alone_{0};  // calls that still go without help
  int penalty_ = 0;            // how many did so the last time
  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::vector<Job*> jobs_;
  int threads_ = 0;
};

// Calls work(task, worker) once for each task in [0, tasks); worker < threads. Which worker gets
// which task is left to chance, so nothing that a task computes may depend on the worker.
template <typename F>
void parallel(std::int64_t tasks, int threads, F work) {
  std::atomic<std::int64_t> next{0};
  auto run = [&](int worker) {
    [[maybe_unused]] const FlushDenormals flush;
    std::int64_t done = 0;
    for (std::int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1), ++done) {
      work(i, worker);
    }
    return done;
  };
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads, tasks)) - 1;
  if (helpers < 1) {
    run(0);
  } else {
    Pool::mine().share(tasks, helpers, run);
  }
}

}  // namespace rsmamba
