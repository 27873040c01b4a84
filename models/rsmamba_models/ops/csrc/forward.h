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
constexpr int kAhead = 5;  // items between one that is prepared and one whose rows are asked for
constexpr int kRing = kAhead + 3;

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

// The skip weights of all directions multiply the same u: their sum is applied once, in the first.
RS_INLINE V whole_skip(const ScanProblem& s, int64_t channel, int lanes) {
  V skip = set1(0.0f);
  for (int64_t k = 0; k < s.directions; ++k) {
    skip = add(skip, load_some(s.skip + k * s.channels + channel, lanes));
  }
  return skip;
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
  int lanes = 0;
  int64_t vector = 0, channel = 0;
  const Rows* rows = nullptr;
  Steps* steps = nullptr;
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

// Calls some(Number<size>(), n) with groups of states, n the first of each, that make up all states.
template <typename F>
RS_INLINE void in_groups(int64_t states, F some) {
  int64_t n = 0;
  for (; n + kGroup <= states; n += kGroup) some(Number<kGroup>(), n);
  if (n + 4 <= states) {
    some(Number<4>(), n);
    n += 4;
  }
  if (n + 2 <= states) {
    some(Number<2>(), n);
    n += 2;
  }
  if (n < states) some(Number<1>(), n);
}

// All N states of a vector through one chunk. `beside` is called once for each step.
template <typename F>
RS_INLINE void advance_all(const float* a, float* state, Steps& steps, const Rows& rows,
                           int64_t states, F beside) {
  in_groups(states, [&](auto size, int64_t n) RS_LAMBDA {
    constexpr int kSize = decltype(size)::value;
    if (n == 0) {
      advance<kSize, true>(a, state, steps, rows, 0, beside);
    } else {
      advance<kSize, false>(a + n * W, state + n * W, steps, rows, n, [](int) {});
    }
  });
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
    if (k == 0 && s.skip) store(p.skip + v * W, whole_skip(s, d, lanes));
  }
  memset(p.state, 0, static_cast<size_t>(vectors * s.states * W) * sizeof(float));
}

// One direction of one task, item by item. While the states of an item advance, the outputs of the
// item before go to the map and the steps of the next one are made ready.
class ForwardDirection {
 public:
  ForwardDirection(const ScanProblem& s, const ForwardTask& task, int64_t k, int64_t vectors,
                   const Vectors& p)
      : s_(s), p_(p), vectors_(vectors), channel_(task.channel), channel_end_(task.channel_end),
        u_(s.u + task.batch * s.u_batch),
        delta_(s.delta + task.batch * s.delta_batch + k * s.delta_direction),
        b_(s.b + task.batch * s.b_batch + k * s.b_direction),
        c_(s.c + task.batch * s.c_batch + k * s.c_direction),
        y_(task.y + task.batch * s.length * s.channels),
        order_(s.order + k * s.length), rank_(s.rank), softplus_(s.softplus),
        skips_(k == 0 && s.skip), accumulate_(k > task.direction) {}

  RS_INLINE void run() {
    const int64_t items = (s_.length + kChunk - 1) / kChunk * vectors_;
    for (int64_t chunk = 0; chunk < kRing - 2; ++chunk) locate(chunk);
    look_ahead(0);
    Item before, now = item(0);
    for (int t = 0; t < now.count; ++t) prepare(now, t);
    for (int64_t i = 0; i < items; ++i) {
      if (now.vector == 0) locate(i / vectors_ + kRing - 2);
      look_ahead(i + 1 + kAhead);
      Item next;
      if (i + 1 < items) next = item(i + 1);
      advance_all(p_.a + now.vector * s_.states * W, p_.state + now.vector * s_.states * W,
                  *now.steps, *now.rows, s_.states, [&](int t) RS_LAMBDA {
                    if (t < before.count) finish(before, t);
                    if (t < next.count) prepare(next, t);
                  });
      for (int t = now.count; t < before.count; ++t) finish(before, t);
      before = now;
      now = next;
    }
    for (int t = 0; t < before.count; ++t) finish(before, t);
  }

 private:
  // Beyond the last step, rows are those of the first one, which may be asked for in vain.
  RS_INLINE void locate(int64_t chunk) {
    Rows& r = rows_[chunk % kRing];
    const int64_t left = s_.length - chunk * kChunk;
    r.count = static_cast<int>(left < 0 ? 0 : left < kChunk ? left : kChunk);
    for (int t = 0; t < kChunk; ++t) {
      const int64_t at = order_[t < r.count ? chunk * kChunk + t : 0];
      r.u[t] = u_ + at * s_.u_length;
      r.delta[t] = delta_ + at * s_.delta_length;
      r.b[t] = b_ + at * s_.b_length;
      r.c[t] = c_ + at * s_.c_length;
      r.y[t] = y_ + at * s_.channels;
    }
  }

  RS_INLINE void look_ahead(int64_t i) {
    ahead_ = &rows_[i / vectors_ % kRing];
    ahead_first_ = i % vectors_ == 0;
    ahead_channel_ = channel_ + i % vectors_ * W;
  }

  RS_INLINE Item item(int64_t i) {
    Item r;
    r.rows = &rows_[i / vectors_ % kRing];
    r.count = r.rows->count;
    r.vector = i % vectors_;
    r.channel = channel_ + r.vector * W;
    r.lanes = static_cast<int>(channel_end_ - r.channel < W ? channel_end_ - r.channel : W);
    r.steps = &steps_[i % 3];
    if (rank_ > 0) {
      project_all(r.rows->delta, p_.weight + r.vector * rank_ * W, rank_, r.count, r.steps->dt);
    }
    begin(r, 0);
    return r;
  }

  // The first half of softplus.
  RS_INLINE void begin(const Item& i, int t) {
    V x = rank_ > 0 ? load(i.steps->dt + t * W) : load_some(i.rows->delta[t] + i.channel, i.lanes);
    x = add(x, load(p_.bias + i.vector * W));
    store(i.steps->dt + t * W, x);
    if (softplus_) store(i.steps->dtu + t * W, exp_minus_abs(x));
  }

  // The second half, a step after the first.
  RS_INLINE void prepare(const Item& i, int t) {
    if (t + 1 < i.count) begin(i, t + 1);
    ask(t);
    const V u = load_some(i.rows->u[t] + i.channel, i.lanes);
    V dt = load(i.steps->dt + t * W);
    if (softplus_) dt = softplus(dt, load(i.steps->dtu + t * W));
    store(i.steps->dt + t * W, dt);
    store(i.steps->dtu + t * W, mul(dt, u));
  }

  RS_INLINE void ask(int t) {
    __builtin_prefetch(ahead_->u[t] + ahead_channel_);
    __builtin_prefetch(ahead_->y[t] + ahead_channel_);
    if (rank_ == 0) __builtin_prefetch(ahead_->delta[t] + ahead_channel_);
    if (ahead_first_) {
      if (rank_ > 0) __builtin_prefetch(ahead_->delta[t]);
      __builtin_prefetch(ahead_->b[t]);
      __builtin_prefetch(ahead_->c[t]);
    }
  }

  RS_INLINE void finish(const Item& i, int t) {
    float* out = i.rows->y[t] + i.channel;
    V sum = load(i.steps->y + t * W);
    if (skips_) {
      sum = fma(load_some(i.rows->u[t] + i.channel, i.lanes), load(p_.skip + i.vector * W), sum);
    }
    store_some(out, accumulate_ ? add(load_some(out, i.lanes), sum) : sum, i.lanes);
  }

  const ScanProblem& s_;
  const Vectors& p_;
  const int64_t vectors_, channel_, channel_end_;
  const float *const u_, *const delta_, *const b_, *const c_;
  float* const y_;
  const int32_t* const order_;
  const int64_t rank_;
  const bool softplus_, skips_, accumulate_;

  Rows rows_[kRing];  // of the chunk before, this one and those that follow
  const Rows* ahead_;
  int64_t ahead_channel_;
  bool ahead_first_;
  alignas(64) Steps steps_[3];  // of the item before, this one and the next
};

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
    ForwardDirection(s, task, k, vectors, p).run();
  }
}

}  // namespace RSMAMBA_NS
