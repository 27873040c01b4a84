// Two threads share calls of eight tasks: the helper is as quick as the caller, then forty times
// slower, as if another program kept its core, then quick again.
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "threads.h"

namespace {

// Tasks of `calls` calls that the helper did, each of which took it `slow` microseconds.
int helped(int calls, unsigned slow) {
  std::atomic<int> count{0};
  for (int i = 0; i < calls; ++i) {
    rsmamba::parallel(8, 2, [&](std::int64_t, int worker) {
      usleep(worker ? slow : 200);
      if (worker) ++count;
    });
  }
  return count;
}

}  // namespace

int main() {
  const int before = helped(20, 200);
  const int slow = helped(300, 8000);
  const int after = helped(300, 200);
  std::printf("the helper did %d of 160, %d of 2400, %d of 2400\n", before, slow, after);
  return before > 0 && slow < 60 && after > 100 ? 0 : 1;
}
