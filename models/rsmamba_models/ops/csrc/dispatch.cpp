// The C interface of the scan: chooses the instruction set, cuts a call into tasks, runs them on
// threads.
//
// How a call is cut never changes its result by a bit: every sum has an order that depends on the
// shape of the problem only, and where threads need private copies, these are added in that order.
#include <algorithm>
#include <new>

#include "library.h"
#include "scan.h"
#include "threads.h"

namespace rsmamba {
namespace {

const Kernels* kernels(int isa) {
  const Kernels* found = isa == kAvx512     ? &kKernelsAvx512
                         : isa == kAvx2     ? &kKernelsAvx2
                         : isa == kBaseline ? &kKernelsBaseline
                                            : nullptr;
  return found && found->forward && cpu_has(isa) ? found : nullptr;
}

bool order_in_range(const ScanProblem& s) {
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < s.directions * s.length; ++i) {
    wrong |= static_cast<std::int64_t>(s.order[i]) | (s.length - 1 - s.order[i]);
  }
  return wrong >= 0;
}

// No thread for less than about a tenth of a millisecond of work.
int useful_threads(const ScanProblem& s, int threads) {
  const double updates = double(s.batch) * double(s.directions) * double(s.length) *
                         double(s.channels) * double(s.states + 4);
  const double most = updates / 500e3;
  return most < 1.0 ? 1 : most < threads ? int(most) : std::max(threads, 1);
}

// How many directions of an image and block of channels the first task takes, where there are too
// few blocks for all threads: it adds them up, and every later direction has a task and a copy of
// the result of its own. Copies are added in the order in which one task would have done.
std::int64_t first_directions(const ScanProblem& s, std::int64_t blocks, int threads) {
  return std::min(s.directions, ceil_div(s.batch * blocks * s.directions, threads));
}

// How the work is cut into tasks.
struct Cut {
  std::int64_t blocks;
  std::int64_t channels;  // of each block but the last
  std::int64_t together;  // directions in the first task of a block
};

// Task i of a cut. Part 0 of every block, the longest of its tasks, comes before part 1 of any.
template <typename Task>
struct Piece {
  Piece(const ScanProblem& s, const Cut& cut, std::int64_t i)
      : block(i % cut.blocks), part(i / cut.blocks / s.batch) {
    task.batch = i / cut.blocks % s.batch;
    task.channel = block * cut.channels;
    task.channel_end = std::min(s.channels, task.channel + cut.channels);
    task.direction = part == 0 ? 0 : cut.together + part - 1;
    task.direction_end = cut.together + part;
  }

  std::int64_t block, part;
  Task task;
};

Cut cut_forward(const ScanProblem& s, const Kernels& kernel, int threads) {
  const std::int64_t vectors = ceil_div(s.channels, kernel.width);
  // Wide blocks read whole rows of the map and share the rows of B and C; bounded by the cache
  // that the states need, and by the threads' need for tasks.
  const std::int64_t bound = std::max<std::int64_t>(1, 128 / (s.states + 8));
  Cut best = {vectors, kernel.width, s.directions};
  double best_time = 0.0;
  for (std::int64_t wide = std::min(bound, vectors); wide >= 1; --wide) {
    const std::int64_t blocks = ceil_div(vectors, wide);
    for (const std::int64_t together : {s.directions, first_directions(s, blocks, threads)}) {
      const bool split = together < s.directions;
      const double one = (double(wide) + 4.0 / double(s.states + 8)) * (split ? 1.1 : 1.0);
      // The last task is seldom done when the others are.
      const double late = threads > 1 && !split ? 0.1 : 0.0;
      const double time =
          split ? one * double(together)
                : one * double(s.directions) * (double(ceil_div(s.batch * blocks, threads)) + late);
      if (best_time == 0.0 || time < 0.99 * best_time) {
        best = {blocks, wide * kernel.width, together};
        best_time = time;
      }
    }
  }
  return best;
}

// y = ((y + copies[0]) + copies[1]) + ..., the order in which one thread would have added.
void add_copies(float* y, const float* copies, std::int64_t count, std::int64_t size,
                int threads) {
  constexpr std::int64_t kPiece = 1 << 14;
  parallel(ceil_div(size, kPiece), threads, [&](std::int64_t piece, int) {
    const std::int64_t end = std::min(size, (piece + 1) * kPiece);
    for (std::int64_t c = 0; c < count; ++c) {
      const float* copy = copies + c * size;
      for (std::int64_t i = piece * kPiece; i < end; ++i) y[i] += copy[i];
    }
  });
}

void run_forward(const ScanProblem& s, const Kernels& kernel, int threads) {
  threads = useful_threads(s, threads);
  const Cut cut = cut_forward(s, kernel, threads);
  const std::int64_t parts = s.directions - cut.together + 1;
  const std::int64_t tasks = s.batch * cut.blocks * parts;
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  const std::int64_t map = s.batch * s.length * s.channels;
  const std::int64_t copies = parts - 1;
  const std::int64_t scratch = round_line(kernel.forward_scratch(s, cut.channels));
  const Buffer workspace(threads * scratch * 4);
  const Buffer separate(copies * map * 4);
  expect_writes(s.y, map * 4);

  parallel(tasks, threads, [&](std::int64_t i, int worker) {
    auto [block, part, task] = Piece<ForwardTask>(s, cut, i);
    task.y = part == 0 ? s.y : separate.as<float>() + (part - 1) * map;
    task.scratch = workspace.as<float>() + worker * scratch;
    kernel.forward(s, task);
  });
  if (copies > 0) add_copies(s.y, separate.as<float>(), copies, map, threads);
}

// out[i] = sum over the images of totals[image][i].
void sum_images(const double* totals, std::int64_t images, std::int64_t size, float* out) {
  for (std::int64_t i = 0; i < size; ++i) {
    double sum = 0.0;
    for (std::int64_t image = 0; image < images; ++image) sum += totals[image * size + i];
    out[i] = static_cast<float>(sum);
  }
}

void run_backward(const ScanProblem& s, const Kernels& kernel, int threads) {
  threads = useful_threads(s, threads);
  // Each block of channels has its own dB and dC; the blocks follow from the shape alone.
  const std::int64_t pairs = ceil_div(s.channels, kernel.pair);
  const std::int64_t per_block = ceil_div(pairs, ceil_div(s.channels, 96)) * kernel.pair;
  const std::int64_t blocks = ceil_div(s.channels, per_block);
  const Cut cut = {blocks, per_block, first_directions(s, blocks, threads)};
  const std::int64_t parts = s.directions - cut.together + 1;
  const std::int64_t tasks = s.batch * blocks * parts;
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));

  const std::int64_t map = s.batch * s.length * s.channels;
  const std::int64_t rows = s.batch * s.directions * s.length * s.states;
  const std::int64_t a_size = s.directions * s.channels * s.states;
  const std::int64_t bias_size = s.directions * s.channels;
  const std::int64_t scratch = round_line(kernel.backward_scratch(s));
  const Buffer workspace(threads * scratch * 4);
  const Buffer separate_u((parts - 1) * map * 4);
  const Buffer separate_b((blocks - 1) * rows * 4);
  const Buffer separate_c((blocks - 1) * rows * 4);
  const Buffer a_totals(s.batch * a_size * 8);
  const Buffer bias_totals(s.batch * bias_size * 8);
  const Buffer skip_totals(s.batch * s.channels * 8);
  expect_writes(s.grad_u, map * 4);
  expect_writes(s.grad_delta, s.directions * map * 4);
  expect_writes(s.grad_b, rows * 4);
  expect_writes(s.grad_c, rows * 4);

  parallel(tasks, threads, [&](std::int64_t i, int worker) {
    auto [block, part, task] = Piece<BackwardTask>(s, cut, i);
    task.grad_u = part == 0 ? s.grad_u : separate_u.as<float>() + (part - 1) * map;
    task.grad_b = block == 0 ? s.grad_b : separate_b.as<float>() + (block - 1) * rows;
    task.grad_c = block == 0 ? s.grad_c : separate_c.as<float>() + (block - 1) * rows;
    task.grad_a = a_totals.as<double>() + task.batch * a_size;
    task.grad_bias = bias_totals.as<double>() + task.batch * bias_size;
    task.grad_skip = skip_totals.as<double>() + task.batch * s.channels;
    task.scratch = workspace.as<float>() + worker * scratch;
    kernel.backward(s, task);
  });

  if (parts > 1) add_copies(s.grad_u, separate_u.as<float>(), parts - 1, map, threads);
  if (blocks > 1) {
    add_copies(s.grad_b, separate_b.as<float>(), blocks - 1, rows, threads);
    add_copies(s.grad_c, separate_c.as<float>(), blocks - 1, rows, threads);
  }
  sum_images(a_totals.as<double>(), s.batch, a_size, s.grad_a);
  if (s.grad_bias) sum_images(bias_totals.as<double>(), s.batch, bias_size, s.grad_bias);
  if (s.grad_skip) {
    // Every direction's skip weight multiplies the same u and receives the same gradient.
    sum_images(skip_totals.as<double>(), s.batch, s.channels, s.grad_skip);
    for (std::int64_t k = 1; k < s.directions; ++k) {
      std::copy(s.grad_skip, s.grad_skip + s.channels, s.grad_skip + k * s.channels);
    }
  }
}

template <typename F>
int guarded(const ScanProblem& s, int isa, F run) {
  const Kernels* kernel = kernels(isa);
  if (!kernel) return kNoSuchIsa;
  if (!order_in_range(s)) return kBadOrder;
  try {
    run(*kernel);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kDone;
}

}  // namespace
}  // namespace rsmamba

// Raised whenever a problem's fields or a function of the library change, so that native.py refuses
// a stale build.
RSMAMBA_EXPORT int rsmamba_interface_version() { return 3; }

// Whether this library was built with the instruction set and this processor has it.
RSMAMBA_EXPORT int rsmamba_has_isa(int isa) { return rsmamba::kernels(isa) != nullptr; }

// All extents must be 1 or more.
RSMAMBA_EXPORT int rsmamba_scan_forward(const ScanProblem* problem, int isa, int threads) {
  return rsmamba::guarded(*problem, isa, [&](const rsmamba::Kernels& kernel) {
    rsmamba::run_forward(*problem, kernel, threads);
  });
}

RSMAMBA_EXPORT int rsmamba_scan_backward(const ScanProblem* problem, int isa, int threads) {
  return rsmamba::guarded(*problem, isa, [&](const rsmamba::Kernels& kernel) {
    rsmamba::run_backward(*problem, kernel, threads);
  });
}
