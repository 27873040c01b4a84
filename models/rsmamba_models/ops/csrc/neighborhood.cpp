// The C interface of the neighbourhood attention: cuts a call into tasks and runs them on threads.
//
// Every query's result depends on its own window only, and every gradient is summed by one task in
// an order that depends on the shape alone: threads never change a bit.
#include "neighborhood.h"

#include <algorithm>
#include <new>

#include "library.h"
#include "threads.h"

namespace rsmamba {
namespace {

const NeighborhoodKernels* neighborhood_kernels(int isa) {
  const NeighborhoodKernels* found = isa == kAvx512     ? &kNeighborhoodAvx512
                                     : isa == kAvx2     ? &kNeighborhoodAvx2
                                     : isa == kBaseline ? &kNeighborhoodBaseline
                                                        : nullptr;
  return found && found->forward && cpu_has(isa) ? found : nullptr;
}

// No thread for less than about a tenth of a millisecond of work.
int useful_threads(const NeighborhoodProblem& s, int threads) {
  const double products = double(s.batch) * double(s.heads) * double(s.height) * double(s.width) *
                          double(s.rows) * double(s.columns) * double(s.size);
  const double most = products / 2e6;
  return most < 1.0 ? 1 : most < threads ? int(most) : std::max(threads, 1);
}

void run_forward(const NeighborhoodProblem& s, const NeighborhoodKernels& kernel, int threads) {
  threads = useful_threads(s, threads);
  // Rectangles narrow enough for their rows of keys and values to stay in the cache, and enough of
  // them for every thread.
  const std::int64_t even = ceil_div(s.width, ceil_div(s.width, 64));
  const std::int64_t columns = ceil_div(even, kernel.width) * kernel.width;
  const std::int64_t strips = ceil_div(s.width, columns);
  const std::int64_t outer = s.batch * s.heads * strips;
  const std::int64_t wanted = threads == 1 ? 1 : ceil_div(4 * threads, outer);
  const std::int64_t rows =
      std::max(ceil_div(s.height, wanted), std::min(s.height, 2 * s.rows));
  const std::int64_t bands = ceil_div(s.height, rows);
  const std::int64_t tasks = outer * bands;
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  const std::int64_t scratch = kernel.forward_scratch(s, columns);
  const Buffer workspace(threads * scratch * 4);
  parallel(tasks, threads, [&](std::int64_t i, int worker) {
    const std::int64_t strip = i / bands % strips;
    const std::int64_t head = i / bands / strips;
    NeighborhoodForwardTask task;
    task.batch = head / s.heads;
    task.head = head % s.heads;
    task.row = i % bands * rows;
    task.row_end = std::min(s.height, task.row + rows);
    task.column = strip * columns;
    task.column_end = std::min(s.width, task.column + columns);
    task.scratch = workspace.as<float>() + worker * scratch;
    kernel.forward(s, task);
  });
}

void run_backward(const NeighborhoodProblem& s, const NeighborhoodKernels& kernel, int threads) {
  const std::int64_t tasks = s.batch * s.heads;
  threads = static_cast<int>(std::min<std::int64_t>(useful_threads(s, threads), tasks));
  const std::int64_t scratch = kernel.backward_scratch(s);
  const std::int64_t table = (2 * s.kernel_size - 1) * (2 * s.kernel_size - 1);
  const Buffer workspace(threads * scratch * 4);
  const Buffer totals(s.grad_bias ? tasks * table * 8 : 0);
  parallel(tasks, threads, [&](std::int64_t i, int worker) {
    NeighborhoodBackwardTask task;
    task.batch = i / s.heads;
    task.head = i % s.heads;
    task.grad_bias = s.grad_bias ? totals.as<double>() + i * table : nullptr;
    task.scratch = workspace.as<float>() + worker * scratch;
    kernel.backward(s, task);
  });
  if (!s.grad_bias) return;
  for (std::int64_t i = 0; i < s.heads * table; ++i) {
    double sum = 0.0;
    for (std::int64_t b = 0; b < s.batch; ++b) sum += totals.as<double>()[b * s.heads * table + i];
    s.grad_bias[i] = static_cast<float>(sum);
  }
}

template <typename F>
int guarded(int isa, F run) {
  const NeighborhoodKernels* kernel = neighborhood_kernels(isa);
  if (!kernel) return kNoSuchIsa;
  try {
    run(*kernel);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kDone;
}

}  // namespace
}  // namespace rsmamba

// All extents must be 1 or more, and the window's at most the map's.
RSMAMBA_EXPORT int rsmamba_neighborhood_forward(const NeighborhoodProblem* problem, int isa,
                                                int threads) {
  return rsmamba::guarded(isa, [&](const rsmamba::NeighborhoodKernels& kernel) {
    rsmamba::run_forward(*problem, kernel, threads);
  });
}

RSMAMBA_EXPORT int rsmamba_neighborhood_backward(const NeighborhoodProblem* problem, int isa,
                                                 int threads) {
  return rsmamba::guarded(isa, [&](const rsmamba::NeighborhoodKernels& kernel) {
    rsmamba::run_backward(*problem, kernel, threads);
  });
}
