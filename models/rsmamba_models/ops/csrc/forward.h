// The forward kernel: reads the un-permuted map in each direction's order, sums the directions.
//
// Time is walked in chunks of kChunk steps. Within a chunk the step sizes of all steps are
// prepared first (softplus has a long latency chain that would otherwise stall every step), then
// the states advance, kGroup of them at a time so that they live in registers.
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

// The steps of one chunk for one vector of channels.
struct Steps {
  float dt[kChunk * W];
  float dtu[kChunk * W];
  float y[kChunk * W];
};

// exp2(dt A) of N states.
template <int N>
RS_INLINE Pack<N> decays(V dt, const float* a) {
  return exp2(abreast<N>([&](int n) { return mul(dt, load(a + n * W)); }));
}

template <int NS>
RS_INLINE void advance(const float* a, float* state, Steps& steps, const float* const* b,
                       const float* const* c, int64_t n0, int count) {
  V h[NS];
  for (int n = 0; n < NS; ++n) h[n] = load(state + n * W);
  for (int t = 0; t < count; ++t) {
    const V dt = load(steps.dt + t * W);
    const V dtu = load(steps.dtu + t * W);
    const float* bt = b[t] + n0;
    const float* ct = c[t] + n0;
    V even = load(steps.y + t * W);
    V odd = set1(0.0f);
    constexpr int kSide = NS < kAbreast ? NS : kAbreast;
    for (int m = 0; m < NS; m += kSide) {
      const Pack<kSide> decay = decays<kSide>(dt, a + m * W);
      for (int n = m; n < m + kSide; ++n) {
        h[n] = fma(h[n], decay.of[n - m], mul(dtu, set1(bt[n])));
        if (n % 2 == 0) {
          even = fma(h[n], set1(ct[n]), even);
        } else {
          odd = fma(h[n], set1(ct[n]), odd);
        }
      }
    }
    store(steps.y + t * W, NS > 1 ? add(even, odd) : even);
  }
  for (int n = 0; n < NS; ++n) store(state + n * W, h[n]);
}

// All N states through one chunk, in groups of a fixed sequence of sizes.
RS_INLINE void advance_all(const float* a, float* state, Steps& steps, const float* const* b,
                           const float* const* c, int64_t states, int count) {
  int64_t n = 0;
  for (; n + kGroup <= states; n += kGroup) {
    advance<kGroup>(a + n * W, state + n * W, steps, b, c, n, count);
  }
  if (n + 4 <= states) {
    advance<4>(a + n * W, state + n * W, steps, b, c, n, count);
    n += 4;
  }
  if (n + 2 <= states) {
    advance<2>(a + n * W, state + n * W, steps, b, c, n, count);
    n += 2;
  }
  if (n < states) advance<1>(a + n * W, state + n * W, steps, b, c, n, count);
}

inline int64_t forward_scratch(const ScanProblem& s, int64_t channels) {
  const int64_t vectors = (channels + W - 1) / W;
  return vectors * (2 * s.states + s.rank) * W;
}

inline void forward(const ScanProblem& s, const ForwardTask& task) {
  const int vectors = static_cast<int>((task.channel_end - task.channel + W - 1) / W);
  float* a = task.scratch;
  float* state = a + vectors * s.states * W;
  float* weight = state + vectors * s.states * W;
  const float* u = s.u + task.batch * s.u_batch;
  float* y = task.y + task.batch * s.length * s.channels;
  alignas(64) Steps steps;
  const float* b[kChunk];
  const float* c[kChunk];
  const float* low[kChunk];

  for (int64_t k = task.direction; k < task.direction_end; ++k) {
    for (int v = 0; v < vectors; ++v) {
      const int64_t d = task.channel + v * W;
      const int lanes = static_cast<int>(task.channel_end - d < W ? task.channel_end - d : W);
      pack_a(s, k, d, lanes, a + v * s.states * W);
      if (s.rank > 0) pack_projection(s, k, d, lanes, weight + v * s.rank * W);
    }
    memset(state, 0, static_cast<size_t>(vectors * s.states * W) * sizeof(float));
    const float* delta = s.delta + task.batch * s.delta_batch + k * s.delta_direction;
    const float* b_map = s.b + task.batch * s.b_batch + k * s.b_direction;
    const float* c_map = s.c + task.batch * s.c_batch + k * s.c_direction;
    const int32_t* order = s.order + k * s.length;
    const bool accumulate = k > task.direction;

    for (int64_t t0 = 0; t0 < s.length; t0 += kChunk) {
      const int64_t left = s.length - t0;
      const int count = static_cast<int>(left < kChunk ? left : kChunk);
      // The next chunk's positions, for prefetching: its rows may lie a page apart each.
      const int32_t* now = order + t0;
      const int32_t* next = left >= 2 * kChunk ? now + kChunk : now;
      for (int t = 0; t < count; ++t) {
        b[t] = b_map + now[t] * s.b_length;
        c[t] = c_map + now[t] * s.c_length;
        __builtin_prefetch(b_map + next[t] * s.b_length);
        __builtin_prefetch(c_map + next[t] * s.c_length);
        if (s.rank > 0) {
          low[t] = delta + now[t] * s.delta_length;
          __builtin_prefetch(delta + next[t] * s.delta_length);
        }
      }
      for (int v = 0; v < vectors; ++v) {
        const int64_t d = task.channel + v * W;
        const int lanes = static_cast<int>(task.channel_end - d < W ? task.channel_end - d : W);
        const V bias =
            s.bias ? load_some(s.bias + k * s.channels + d, lanes) : set1(0.0f);
        // The skip weights of all directions multiply the same u: their sum is applied once.
        V skip = set1(0.0f);
        if (k == 0 && s.skip) {
          for (int64_t j = 0; j < s.directions; ++j) {
            skip = add(skip, load_some(s.skip + j * s.channels + d, lanes));
          }
        }
        if (s.rank > 0) project_all(low, weight + v * s.rank * W, s.rank, count, steps.dt);
        for (int t = 0; t < count; ++t) {
          V x;
          if (s.rank > 0) {
            x = load(steps.dt + t * W);
          } else {
            x = load_some(delta + now[t] * s.delta_length + d, lanes);
            __builtin_prefetch(delta + next[t] * s.delta_length + d);
          }
          x = add(x, bias);
          const V ut = load_some(u + now[t] * s.u_length + d, lanes);
          __builtin_prefetch(u + next[t] * s.u_length + d);
          __builtin_prefetch(y + next[t] * s.channels + d);
          const V dt = s.softplus ? softplus(x) : x;
          store(steps.dt + t * W, dt);
          store(steps.dtu + t * W, mul(dt, ut));
          // 0 * u would turn an infinite u into NaN where no skip weight was given.
          store(steps.y + t * W, s.skip && k == 0 ? mul(ut, skip) : set1(0.0f));
        }
        advance_all(a + v * s.states * W, state + v * s.states * W, steps, b, c, s.states, count);
        for (int t = 0; t < count; ++t) {
          float* out = y + now[t] * s.channels + d;
          const V sum = load(steps.y + t * W);
          store_some(out, accumulate ? add(load_some(out, lanes), sum) : sum, lanes);
        }
      }
    }
  }
}

}  // namespace RSMAMBA_NS
