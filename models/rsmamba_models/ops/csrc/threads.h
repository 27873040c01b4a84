// One parallel region: threads that live as long as the call.
//
// Starting a thread costs some 10 microseconds against calls of milliseconds, and in exchange
// nothing outlives the call: no state to break in a forked child, no thread spinning or waiting.
#pragma once

#include <atomic>
#include <cstdint>
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

// Calls work(task, worker) once for each task in [0, tasks); worker < threads. Which worker gets
// which task is left to chance, so nothing that a task computes may depend on the worker.
template <typename F>
void parallel(std::int64_t tasks, int threads, F work) {
  std::atomic<std::int64_t> next{0};
  auto run = [&](int worker) {
    [[maybe_unused]] const FlushDenormals flush;
    for (std::int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) work(i, worker);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<std::size_t>(threads));
  for (int i = 1; i < threads && i < tasks; ++i) {
    try {
      helpers.emplace_back(run, i);
    } catch (...) {
      break;  // No more threads to be had: those that started do the work.
    }
  }
  run(0);
  for (auto& helper : helpers) helper.join();
}

}  // namespace rsmamba
