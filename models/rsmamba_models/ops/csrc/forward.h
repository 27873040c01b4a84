// The forward kernel: reads the un-permuted map in each direction's order, sums the directions.
//
// Time is walked in chunks of kChunk steps, and a chunk vector by vector of channels. The states
// of a vector advance through its chunk kGroup at a time, so that they live in registers. That is
// bound by multiplications; all the rest, which waits for memory and for long chains of operations
// (softplus), is done beside it, a row at each step: the outputs of the vector before go to the
// map, and the steps of the next one are made ready.
#pragma once

#include "scan.h"
#include "simd.h"

namespace RSMAMBA_NS {

using rsmamba::ForwardTask;

constexpr int kChunk = 16;
constexpr int kGroup = 8;  // states that advance together: more would not fit in 16 registers

RS_INLINE V load_some(const float* p, int n) { return n == W ? load(p) : load_first(p, n); }
RS_INLINE void store_some(float* p, V v, int n) {
  if (n == W) {
    store(p, v);
  } else {
    store_first(p, v, n);
  }
}

// A (K, D, N) -> packed[n][lane] = A[direction, channel + lane, n] * log2(e), zero beyond `lanes`.
inline void pack_a(const ScanProblem& s, int64_t direction, int64_t channel, int lanes,
                   float* packed) {
  const float* a = s.a + (direction * s.channels + channel) * s.states;
  for (int64_t n = 0; n < s.states; ++n) {
    for (int i = 0; i < W; ++i) {
      packed[n * W + i] = i < lanes ? a[i * s.states + n] * kLog2e : 0.0f;
    }
  }
}

// dt_proj (K, D, R) -> packed[r][lane] = dt_proj[direction, channel + lane, r], as above.
inline void pack_projection(const ScanProblem& s, int64_t direction, int64_t channel, int lanes,
                            float* packed) {
  const float* from = s.dt_proj + (direction * s.channels + channel) * s.rank;
  for (int64_t r = 0; r < s.rank; ++r) {
    for (int i = 0; i < W; ++i) packed[r * W + i] = i < lanes ? from[i * s.rank + r] : 0.0f;
  }
}

// T steps of a vector of channels, before bias and softplus, from their low rank.
template <int T>
RS_INLINE void project(const float* const* low, const float* weight, int64_t rank, float* out) {
  V sum[T];
  for (int t = 0; t < T; ++t) sum[t] = set1(0.0f);
  for (int64_t r = 0; r < rank; ++r) {
    const V w = load(weight + r * W);
    for (int t = 0; t < T; ++t) sum[t] = fma(set1(low[t][r]), w, sum[t]);
  }
  for (int t = 0; t < T; ++t) store(out + t * W, sum[t]);
}

RS_INLINE void project_all(const float* const* low, const float* weight, int64_t rank, int count,
                           float* out) {
  constexpr int kSome = 8;
  int t = 0;
  for (; t + kSome <= count; t += kSome) project<kSome>(low + t, weight, rank, out + t * W);
  for (; t < count; ++t) project<1>(low + t, weight, rank, out + t * W);
}

// The steps of one chunk for one vector of channels, and what they give.
struct Steps {
  float dt[kChunk * W];
  float dtu[kChunk * W];
  float y[kChunk * W];
};

// Where the rows of one chunk lie.
struct Rows {
  int count;
  const float *u[kChunk], *delta[kChunk], *b[kChunk], *c[kChunk];
  float* y[kChunk];
};

// One chunk of one vector of channels.
struct Item {
  int count = 0;  // of steps; none where there is no such item
  int lanes;
  int64_t vector, channel;
  const Rows *rows, *later;  // of this chunk, and of the next one
  Steps* steps;
};

// exp2(dt A) of N states.
template <int N>
RS_INLINE Pack<N> decays(V dt, const float* a) {
  return exp2(abreast<N>([&](int n) { return mul(dt, load(a + n * W)); }));
}

// NS states through one chunk. kFirst: their outputs begin the sums over the states. `beside` is
// called with each step.
template <int NS, bool kFirst, typename F>
RS_INLINE void advance(const float* a, float* state, Steps& steps, const Rows& rows, int64_t n0,
                       F beside) {
  Pack<NS> h = abreast<NS>([&](int n) { return load(state + n * W); });
  for (int t = 0; t < rows.count; ++t) {
    const V dt = load(steps.dt + t * W);
    const V dtu = load(steps.dtu + t * W);
    const float* bt = rows.b[t] + n0;
    const float* ct = rows.c[t] + n0;
    V even = kFirst ? set1(0.0f) : load(steps.y + t * W);
    V odd = set1(0.0f);
    constexpr int kSide = NS < kAbreast ? NS : kAbreast;
    repeat<NS / kSide>([&](auto group) RS_LAMBDA {
      constexpr int m = group.value * kSide;
      const Pack<kSide> decay = decays<kSide>(dt, a + m * W);
      repeat<kSide>([&](auto side) RS_LAMBDA {
        constexpr int n = m + side.value;
        h.of[n] = fma(h.of[n], decay.of[side.value], mul(dtu, set1(bt[n])));
        V& sum = n % 2 == 0 ? even : odd;
        sum = fma(h.of[n], set1(ct[n]), sum);
      });
    });
    store(steps.y + t * W, NS > 1 ? add(even, odd) : even);
    beside(t);
  }
  repeat<NS>([&](auto n) RS_LAMBDA { store(state + n.value * W, h.of[n.value]); });
}

// All N states through one chunk, in groups of a fixed sequence of sizes.
template <typename F>
RS_INLINE void advance_all(const float* a, float* state, Steps& steps, const Rows& rows,
                           int64_t states, F beside) {
  const auto nothing = [](int) {};
  int64_t n = 0;
  const auto group = [&](auto size) RS_LAMBDA {
    constexpr int kSize = decltype(size)::value;
    if (n == 0) {
      advance<kSize, true>(a, state, steps, rows, 0, beside);
    } else {
      advance<kSize, false>(a + n * W, state + n * W, steps, rows, n, nothing);
    }
    n += kSize;
  };
  while (n + kGroup <= states) group(Number<kGroup>());
  if (n + 4 <= states) group(Number<4>());
  if (n + 2 <= states) group(Number<2>());
  if (n < states) group(Number<1>());
}

inline int64_t forward_scratch(const ScanProblem& s, int64_t channels) {
  const int64_t vectors = (channels + W - 1) / W;
  return vectors * (2 * s.states + s.rank + 2) * W;
}

// What the vectors of a task need in one direction, and their states: [vector][...][lane].
struct Vectors {
  float *a, *state, *weight, *bias, *skip;
};

inline void begin_direction(const ScanProblem& s, const ForwardTask& task, int64_t k,
                            int64_t vectors, const Vectors& p) {
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t d = task.channel + v * W;
    const int lanes = static_cast<int>(task.channel_end - d < W ? task.channel_end - d : W);
    pack_a(s, k, d, lanes, p.a + v * s.states * W);
    if (s.rank > 0) pack_projection(s, k, d, lanes, p.weight + v * s.rank * W);
    store(p.bias + v * W, s.bias ? load_some(s.bias + k * s.channels + d, lanes) : set1(0.0f));
    // The skip weights of all directions multiply the same u: their sum is applied once.
    V skip = set1(0.0f);
    for (int64_t j = 0; s.skip && j < s.directions; ++j) {
      skip = add(skip, load_some(s.skip + j * s.channels + d, lanes));
    }
    store(p.skip + v * W, skip);
  }
  memset(p.state, 0, static_cast<size_t>(vectors * s.states * W) * sizeof(float));
}

inline void forward_direction(const ScanProblem& s, const ForwardTask& task, int64_t k,
                              int64_t vectors, const Vectors& p) {
  const float* u_map = s.u + task.batch * s.u_batch;
  const float* delta_map = s.delta + task.batch * s.delta_batch + k * s.delta_direction;
  const float* b_map = s.b + task.batch * s.b_batch + k * s.b_direction;
  const float* c_map = s.c + task.batch * s.c_batch + k * s.c_direction;
  float* y_map = task.y + task.batch * s.length * s.channels;
  const int32_t* order = s.order + k * s.length;
  const int64_t length = s.length, rank = s.rank, states = s.states;
  const bool softplus_steps = s.softplus, skips = k == 0 && s.skip;
  const bool accumulate = k > task.direction;

  Rows rows[4];  // of the chunk before, this one and the two that follow
  alignas(64) Steps steps[3];  // of the item before, this one and the next

  // Beyond the last step, rows are those of the first one, which may be asked for in vain.
  const auto locate = [&](int64_t chunk) {
    Rows& r = rows[chunk % 4];
    const int64_t left = length - chunk * kChunk;
    r.count = static_cast<int>(left < 0 ? 0 : left < kChunk ? left : kChunk);
    for (int t = 0; t < kChunk; ++t) {
      const int64_t at = order[t < r.count ? chunk * kChunk + t : 0];
      r.u[t] = u_map + at * s.u_length;
      r.delta[t] = delta_map + at * s.delta_length;
      r.b[t] = b_map + at * s.b_length;
      r.c[t] = c_map + at * s.c_length;
      r.y[t] = y_map + at * s.channels;
    }
  };
  const auto item = [&](int64_t i) {
    const int64_t chunk = i / vectors;
    Item next;
    next.rows = rows + chunk % 4;
    next.later = rows + (chunk + 1) % 4;
    next.count = next.rows->count;
    next.vector = i % vectors;
    next.channel = task.channel + next.vector * W;
    next.lanes = static_cast<int>(task.channel_end - next.channel < W
                                      ? task.channel_end - next.channel : W);
    next.steps = steps + i % 3;
    if (rank > 0) {
      project_all(next.rows->delta, p.weight + next.vector * rank * W, rank, next.count,
                  next.steps->dt);
    }
    return next;
  };
  const auto begin = [&](const Item& i, int t) RS_LAMBDA {
    const int64_t d = i.channel;
    V x = rank > 0 ? load(i.steps->dt + t * W) : load_some(i.rows->delta[t] + d, i.lanes);
    x = add(x, load(p.bias + i.vector * W));
    store(i.steps->dt + t * W, x);
    if (softplus_steps) store(i.steps->dtu + t * W, exp_minus_abs(x));
  };
  const auto prepare = [&](const Item& i, int t) RS_LAMBDA {
    const int64_t d = i.channel;
    if (t + 1 < i.count) begin(i, t + 1);
    const V u = load_some(i.rows->u[t] + d, i.lanes);
    __builtin_prefetch(i.later->u[t] + d);
    __builtin_prefetch(i.later->y[t] + d);
    if (rank == 0) __builtin_prefetch(i.later->delta[t] + d);
    if (i.vector == 0) {
      if (rank > 0) __builtin_prefetch(i.later->delta[t]);
      __builtin_prefetch(i.later->b[t]);
      __builtin_prefetch(i.later->c[t]);
    }
    V dt = load(i.steps->dt + t * W);
    if (softplus_steps) dt = softplus(dt, load(i.steps->dtu + t * W));
    store(i.steps->dt + t * W, dt);
    store(i.steps->dtu + t * W, mul(dt, u));
  };
  const auto finish = [&](const Item& i, int t) RS_LAMBDA {
    float* out = i.rows->y[t] + i.channel;
    V sum = load(i.steps->y + t * W);
    if (skips) {
      sum = fma(load_some(i.rows->u[t] + i.channel, i.lanes), load(p.skip + i.vector * W), sum);
    }
    store_some(out, accumulate ? add(load_some(out, i.lanes), sum) : sum, i.lanes);
  };

  const int64_t items = (length + kChunk - 1) / kChunk * vectors;
  for (int64_t chunk = 0; chunk < 2; ++chunk) locate(chunk);
  Item before, now = item(0);
  begin(now, 0);
  for (int t = 0; t < now.count; ++t) prepare(now, t);
  for (int64_t i = 0; i < items; ++i) {
    if (now.vector == 0) locate(i / vectors + 2);
    Item next;
    if (i + 1 < items) {
      next = item(i + 1);
      begin(next, 0);
    }
    advance_all(p.a + now.vector * states * W, p.state + now.vector * states * W, *now.steps,
                *now.rows, states, [&](int t) RS_LAMBDA {
                  if (t < before.count) finish(before, t);
                  if (t < next.count) prepare(next, t);
                });
    for (int t = now.count; t < before.count; ++t) finish(before, t);
    before = now;
    now = next;
  }
  for (int t = 0; t < before.count; ++t) finish(before, t);
}

inline void forward(const ScanProblem& s, const ForwardTask& task) {
  const int64_t vectors = (task.channel_end - task.channel + W - 1) / W;
  Vectors p;
  p.a = task.scratch;
  p.state = p.a + vectors * s.states * W;
  p.weight = p.state + vectors * s.states * W;
  p.bias = p.weight + vectors * s.rank * W;
  p.skip = p.bias + vectors * W;
  for (int64_t k = task.direction; k < task.direction_end; ++k) {
    begin_direction(s, task, k, vectors, p);
    forward_direction(s, task, k, vectors, p);
  }
}

}  // namespace RSMAMBA_NS
