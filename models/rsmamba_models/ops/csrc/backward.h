// The backward kernel: recomputes states between checkpoints, then sweeps each chunk in reverse.
//
// With a_t = exp(dt_t A), h_t = a_t h_{t-1} + dt_t u_t B_t, y_t = C_t . h_t and g the gradient that
// arrives from later steps, one reverse step is
//
//   G = g + gy_t C_t        dC_t = sum_d gy_t h_t       dB_t = sum_d G dt_t u_t
//   w = G a_t h_{t-1}       dA += w dt_t                g <- G a_t
//   du_t = (G . B_t) dt_t   ddt_t = sum_n w A + (G . B_t) u_t
//
// kPair vectors of channels go together, because the sums over the channels (dB, dC) cross the
// lanes: adding the vectors first halves the number of such sums. kPart states go together, so that
// their G and dA stay in registers. As many pairs share a chunk as have room for their states near
// the core: whole rows of the map are read at once, and rows of dB and dC written once.
#pragma once

#include "forward.h"

namespace RSMAMBA_NS {

using rsmamba::BackwardTask;

constexpr int kPair = 2;
constexpr int kPart = 4;
constexpr int kSpan = 16;            // steps between checkpoints
constexpr int kChunksPerFlush = 32;  // float sums are moved to doubles this often
constexpr int kMostPairs = 12;
static_assert(2 * kPart <= 8, "reduce8 takes the dB and dC of one part");

struct ReverseSteps {
  float dt[kPair][kSpan * W];
  float dtu[kPair][kSpan * W];
  float grad[kPair][kSpan * W];
  float grad_b_dot[kPair][kSpan * W];  // G . B
  float grad_a_dot[kPair][kSpan * W];  // sum over n of w A log2(e)
  float history[(kSpan + 1) * kPair * kPart * W];
  float decay[kSpan * kPair * kPart * W];
};

// Up to kPair vectors of channels, and what they keep while time passes. The arrays are
// [vector][state][lane]; sums over time go through floats to doubles.
struct Pair {
  int64_t channel;
  int vectors;
  int lanes[kPair];
  float *a, *state, *grad_state, *grad_a;
  double* grad_a_total;
  float bias_sum[kPair * W], skip_sum[kPair * W];
  double bias_total[kPair * W], skip_total[kPair * W];
};

// The maps of one image and direction.
struct Maps {
  int64_t direction;
  const float *u, *delta, *b, *c, *grad;
  const int32_t* order;
  float *grad_u, *grad_delta, *grad_b, *grad_c;
  bool accumulate_u;
};

// The positions of a chunk, those of the chunk that follows, and the rows of B and C.
struct Chunk {
  const int32_t *now, *next;
  int count;
  const float *b[kSpan], *c[kSpan];
};

// What the next pair will need. It is asked for in several places: where many wait for memory at
// once, all wait.
struct Ahead {
  const int32_t* at;  // positions
  int64_t channel;
  const float* checkpoint;
};

inline int64_t pairs_together(const ScanProblem& s, int64_t channels) {
  const int64_t all = (channels + kPair * W - 1) / (kPair * W);
  const int64_t room = 768 / (s.states * W);
  const int64_t most = room < 1 ? 1 : room > kMostPairs ? kMostPairs : room;
  return all < most ? all : most;
}

inline int64_t backward_scratch(const ScanProblem& s) {
  const int64_t chunks = (s.length + kSpan - 1) / kSpan;
  const int64_t each = kPair * s.states * W;
  return pairs_together(s, s.channels) * each * (chunks + 4 + 2) + kSpan * 2 * s.states;
}

// NS states through one chunk, without their outputs. `beside` is called with each step: it asks
// for memory while the multiplications leave time for it.
template <int NS, typename F>
RS_INLINE void advance_quietly(const float* a, float* state, const float* dt, const float* dtu,
                               const float* const* b, int64_t n0, int count, F beside) {
  Pack<NS> h = abreast<NS>([&](int n) RS_LAMBDA { return load(state + n * W); });
  for (int t = 0; t < count; ++t) {
    const V dtt = load(dt + t * W);
    const V dtut = load(dtu + t * W);
    const float* bt = b[t] + n0;
    constexpr int kSide = NS < kAbreast ? NS : kAbreast;
    repeat<NS / kSide>([&](auto group) RS_LAMBDA {
      constexpr int m = group.value * kSide;
      const Pack<kSide> decay = decays<kSide>(dtt, a + m * W);
      repeat<kSide>([&](auto side) RS_LAMBDA {
        constexpr int n = m + side.value;
        h.of[n] = fma(h.of[n], decay.of[side.value], mul(dtut, set1(bt[n])));
      });
    });
    beside(t);
  }
  repeat<NS>([&](auto n) RS_LAMBDA { store(state + n.value * W, h.of[n.value]); });
}

// One reverse step of NS states of VV vectors, whose arrays are `stride` floats apart: sums gets
// the NS rows of dB, then those of dC, not yet summed over the lanes.
template <int VV, int NS>
RS_INLINE void reverse_step(ReverseSteps& r, const float* a, int64_t stride, const float* b,
                            const float* c, int t, Pack<VV * NS>& g, Pack<VV * NS>& ga, V* sums) {
  constexpr int kStep = VV * NS * W;
  repeat<VV>([&](auto vector) RS_LAMBDA {
    constexpr int v = vector.value;
    const V dt = load(r.dt[v] + t * W);
    const V dtu = load(r.dtu[v] + t * W);
    const V gy = load(r.grad[v] + t * W);
    V b_dot = load(r.grad_b_dot[v] + t * W);
    V a_dot = load(r.grad_a_dot[v] + t * W);
    repeat<NS>([&](auto state) RS_LAMBDA {
      constexpr int n = state.value, i = v * NS + n;
      const float* history = r.history + t * kStep + i * W;
      const V total = fma(gy, set1(c[n]), g.of[i]);
      const V h = load(history + kStep);
      sums[n] = v == 0 ? mul(total, dtu) : fma(total, dtu, sums[n]);
      sums[NS + n] = v == 0 ? mul(gy, h) : fma(gy, h, sums[NS + n]);
      b_dot = fma(total, set1(b[n]), b_dot);
      g.of[i] = mul(total, load(r.decay + t * kStep + i * W));
      const V w = mul(g.of[i], load(history));
      ga.of[i] = fma(w, dt, ga.of[i]);
      a_dot = fma(w, load(a + v * stride + n * W), a_dot);
    });
    store(r.grad_b_dot[v] + t * W, b_dot);
    store(r.grad_a_dot[v] + t * W, a_dot);
  });
}

// Adds the sums of one or more steps to the rows [step][dB, dC][state], or begins them.
template <int NS>
RS_INLINE void add_sums(const float* sums, int steps, float* rows, int64_t states, bool begin) {
  for (int i = 0; i < steps; ++i) {
    for (int half = 0; half < 2; ++half) {
      float* row = rows + (2 * i + half) * states;
      const float* more = sums + (2 * i + half) * NS;
      for (int n = 0; n < NS; ++n) row[n] = begin ? more[n] : row[n] + more[n];
    }
  }
}

// One chunk backwards for the states n0 .. n0 + NS - 1 of a pair. `beside` is called with each step
// and vector.
template <int VV, int NS, typename F>
RS_INLINE void reverse_part(ReverseSteps& r, const Pair& p, int64_t states,
                            const float* checkpoint, const Chunk& chunk, int64_t n0, float* rows,
                            bool begin, F beside) {
  constexpr int kStep = VV * NS * W;
  const int64_t stride = states * W;
  const float* a = p.a + n0 * W;
  const auto place = [&](int i) RS_LAMBDA { return i / NS * stride + (n0 + i % NS) * W; };
  const auto load_all = [&](const float* from) RS_LAMBDA {
    return abreast<VV * NS>([&](int i) RS_LAMBDA { return load(from + place(i)); });
  };
  {
    Pack<VV * NS> h = load_all(checkpoint);
    for (int t = 0; t < chunk.count; ++t) {
      repeat<VV>([&](auto vector) RS_LAMBDA {
        constexpr int v = vector.value;
        const V dt = load(r.dt[v] + t * W);
        const V dtu = load(r.dtu[v] + t * W);
        const Pack<NS> decay = decays<NS>(dt, a + v * stride);
        repeat<NS>([&](auto state) RS_LAMBDA {
          constexpr int n = state.value, i = v * NS + n;
          store(r.history + t * kStep + i * W, h.of[i]);
          store(r.decay + t * kStep + i * W, decay.of[n]);
          h.of[i] = fma(h.of[i], decay.of[n], mul(dtu, set1(chunk.b[t][n0 + n])));
        });
        beside(t, v);
      });
    }
    repeat<VV * NS>([&](auto i) RS_LAMBDA {
      store(r.history + chunk.count * kStep + i.value * W, h.of[i.value]);
    });
  }
  Pack<VV * NS> g = load_all(p.grad_state);
  Pack<VV * NS> ga = load_all(p.grad_a);
  constexpr int kSteps = 8 / (2 * NS);  // whose sums over the lanes go together
  float sums[8];
  float* row = rows + n0;
  int t = chunk.count;
  for (; t % kSteps > 0; --t) {
    V one[8];
    for (int i = 2 * NS; i < 8; ++i) one[i] = set1(0.0f);
    reverse_step<VV, NS>(r, a, stride, chunk.b[t - 1] + n0, chunk.c[t - 1] + n0, t - 1, g, ga, one);
    reduce8(one, sums);
    add_sums<NS>(sums, 1, row + (t - 1) * 2 * states, states, begin);
  }
  for (; t > 0; t -= kSteps) {
    V some[8];
    repeat<kSteps>([&](auto step) RS_LAMBDA {
      constexpr int i = step.value + 1;
      reverse_step<VV, NS>(r, a, stride, chunk.b[t - i] + n0, chunk.c[t - i] + n0, t - i, g, ga,
                           some + (kSteps - i) * 2 * NS);
    });
    reduce8(some, sums);
    add_sums<NS>(sums, kSteps, row + (t - kSteps) * 2 * states, states, begin);
  }
  repeat<VV * NS>([&](auto i) RS_LAMBDA {
    store(p.grad_state + place(i.value), g.of[i.value]);
    store(p.grad_a + place(i.value), ga.of[i.value]);
  });
}

// The states of a pair through one chunk. The steps after softplus are left where their gradients
// will be written, for the way back.
template <int VV>
RS_INLINE void forward_chunk(const ScanProblem& s, const Maps& m, const Chunk& chunk,
                             const Ahead& ahead, const Pair& p, ReverseSteps& r) {
  for (int v = 0; v < VV; ++v) {
    const int64_t d = p.channel + v * W;
    const int lanes = p.lanes[v];
    const V bias =
        s.bias ? load_some(s.bias + m.direction * s.channels + d, lanes) : set1(0.0f);
    for (int t = 0; t < chunk.count; ++t) {
      const int64_t at = chunk.now[t];
      const V x = add(load_some(m.delta + at * s.delta_length + d, lanes), bias);
      const V u = load_some(m.u + at * s.u_length + d, lanes);
      const V dt = s.softplus ? softplus(x) : x;
      store(r.dt[v] + t * W, dt);
      store(r.dtu[v] + t * W, mul(dt, u));
      store_some(m.grad_delta + at * s.channels + d, dt, lanes);
    }
    const float* a = p.a + v * s.states * W;
    float* state = p.state + v * s.states * W;
    const auto ask = [&](int t) RS_LAMBDA {
      const int64_t at = ahead.at[t], channel = ahead.channel + v * W;
      __builtin_prefetch(m.delta + at * s.delta_length + channel);
      __builtin_prefetch(m.u + at * s.u_length + channel);
    };
    in_groups(s.states, [&](auto size, int64_t n) RS_LAMBDA {
      constexpr int kSize = decltype(size)::value;
      if (n == 0) {
        advance_quietly<kSize>(a, state, r.dt[v], r.dtu[v], chunk.b, 0, chunk.count, ask);
      } else {
        advance_quietly<kSize>(a + n * W, state + n * W, r.dt[v], r.dtu[v], chunk.b, n,
                               chunk.count, [](int) {});
      }
    });
  }
}

// One chunk backwards for a pair: its part of du, ddelta and the sums, and of the rows of dB and
// dC.
template <int VV>
RS_INLINE void reverse_chunk(const ScanProblem& s, const Maps& m, const Chunk& chunk,
                             const Ahead& ahead, const float* checkpoint, Pair& p,
                             ReverseSteps& r, float* rows, bool begin) {
  constexpr float kLn2 = 0.693147181f;
  for (int v = 0; v < VV; ++v) {
    const int64_t d = p.channel + v * W;
    for (int t = 0; t < chunk.count; ++t) {
      const int64_t at = chunk.now[t];
      const V dt = load_some(m.grad_delta + at * s.channels + d, p.lanes[v]);
      const V u = load_some(m.u + at * s.u_length + d, p.lanes[v]);
      __builtin_prefetch(m.u + ahead.at[t] * s.u_length + ahead.channel + v * W);
      store(r.dt[v] + t * W, dt);
      store(r.dtu[v] + t * W, mul(dt, u));
      store(r.grad[v] + t * W, load_some(m.grad + at * s.grad_length + d, p.lanes[v]));
      store(r.grad_b_dot[v] + t * W, set1(0.0f));
      store(r.grad_a_dot[v] + t * W, set1(0.0f));
    }
  }

  const auto ask = [&](int t, int v) RS_LAMBDA {
    const int64_t at = ahead.at[t], channel = ahead.channel + v * W;
    __builtin_prefetch(m.grad + at * s.grad_length + channel);
    for (int64_t i = t * VV + v; i < VV * s.states; i += VV * kSpan) {
      __builtin_prefetch(ahead.checkpoint + i * W);
    }
  };
  const auto nothing = [](int, int) {};
  int64_t n = 0;
  const auto part = [&](auto size) RS_LAMBDA {
    constexpr int kSize = decltype(size)::value;
    if (n + kSize == s.states) {
      reverse_part<VV, kSize>(r, p, s.states, checkpoint, chunk, n, rows, begin, ask);
    } else {
      reverse_part<VV, kSize>(r, p, s.states, checkpoint, chunk, n, rows, begin, nothing);
    }
    n += kSize;
  };
  while (n + kPart <= s.states) part(Number<kPart>());
  while (n < s.states) part(Number<1>());

  const bool skips = m.direction == 0 && s.skip;
  for (int v = 0; v < VV; ++v) {
    const int64_t d = p.channel + v * W;
    const int lanes = p.lanes[v];
    const V skip = skips ? whole_skip(s, d, lanes) : set1(0.0f);
    V bias_sum = load(p.bias_sum + v * W);
    V skip_sum = load(p.skip_sum + v * W);
    for (int t = 0; t < chunk.count; ++t) {
      const int64_t at = chunk.now[t];
      __builtin_prefetch(m.grad_u + ahead.at[t] * s.channels + ahead.channel + v * W, 1);
      __builtin_prefetch(m.grad_delta + ahead.at[t] * s.channels + ahead.channel + v * W, 1);
      const V u = load_some(m.u + at * s.u_length + d, lanes);
      const V dt = load(r.dt[v] + t * W);
      const V gy = load(r.grad[v] + t * W);
      const V b_dot = load(r.grad_b_dot[v] + t * W);
      V raw = fma(b_dot, u, mul(load(r.grad_a_dot[v] + t * W), set1(kLn2)));
      if (s.softplus) raw = mul(raw, one_minus_exp(dt));
      store_some(m.grad_delta + at * s.channels + d, raw, lanes);
      bias_sum = add(bias_sum, raw);
      V gu = mul(b_dot, dt);
      if (skips) {
        gu = fma(gy, skip, gu);
        skip_sum = fma(gy, u, skip_sum);
      }
      float* out = m.grad_u + at * s.channels + d;
      store_some(out, m.accumulate_u ? add(load_some(out, lanes), gu) : gu, lanes);
    }
    store(p.bias_sum + v * W, bias_sum);
    store(p.skip_sum + v * W, skip_sum);
  }
}

// Moves the sums of some chunks from floats to doubles: a million steps lose no accuracy.
inline void flush_sums(Pair& p, int64_t each) {
  for (int64_t i = 0; i < each; ++i) {
    p.grad_a_total[i] += p.grad_a[i];
    p.grad_a[i] = 0.0f;
  }
  for (int i = 0; i < kPair * W; ++i) {
    p.bias_total[i] += p.bias_sum[i];
    p.skip_total[i] += p.skip_sum[i];
    p.bias_sum[i] = p.skip_sum[i] = 0.0f;
  }
}

// Lays the arrays of a pair out from `scratch` on and sets them up for one direction; returns where
// the next pair's begin.
inline float* begin_pair(const ScanProblem& s, const Maps& m, int64_t channel, int64_t channel_end,
                         float* scratch, Pair& p) {
  const int64_t each = kPair * s.states * W;
  memset(&p, 0, sizeof(p));
  memset(scratch, 0, static_cast<size_t>(each) * 6 * sizeof(float));
  p.channel = channel;
  p.grad_a_total = reinterpret_cast<double*>(scratch);
  p.a = scratch + 2 * each;
  p.state = p.a + each;
  p.grad_state = p.state + each;
  p.grad_a = p.grad_state + each;
  for (int v = 0; v < kPair && channel + v * W < channel_end; ++v) {
    const int64_t rest = channel_end - channel - v * W;
    p.lanes[v] = static_cast<int>(rest < W ? rest : W);
    p.vectors = v + 1;
    pack_a(s, m.direction, channel + v * W, p.lanes[v], p.a + v * s.states * W);
  }
  return p.grad_a + each;
}

inline void end_pair(const ScanProblem& s, const BackwardTask& task, int64_t direction,
                     const Pair& p) {
  for (int v = 0; v < p.vectors; ++v) {
    for (int i = 0; i < p.lanes[v]; ++i) {
      const int64_t d = p.channel + v * W + i;
      const int64_t kd = direction * s.channels + d;
      for (int64_t n = 0; n < s.states; ++n) {
        task.grad_a[kd * s.states + n] = p.grad_a_total[(v * s.states + n) * W + i];
      }
      task.grad_bias[kd] = p.bias_total[v * W + i];
      if (direction == 0) task.grad_skip[d] = p.skip_total[v * W + i];
    }
  }
}

RS_INLINE void begin_chunk(const ScanProblem& s, const Maps& m, int64_t index, int64_t next,
                           Chunk& chunk) {
  const int64_t left = s.length - index * kSpan;
  const bool whole = next >= 0 && (next + 1) * kSpan <= s.length;
  chunk.count = static_cast<int>(left < kSpan ? left : kSpan);
  chunk.now = m.order + index * kSpan;
  chunk.next = whole ? m.order + next * kSpan : chunk.now;
  for (int t = 0; t < chunk.count; ++t) {
    chunk.b[t] = m.b + chunk.now[t] * s.b_length;
    chunk.c[t] = m.c + chunk.now[t] * s.c_length;
    __builtin_prefetch(m.b + chunk.next[t] * s.b_length);
    __builtin_prefetch(m.c + chunk.next[t] * s.c_length);
  }
}

// Writes a chunk's rows of dB and dC, or adds to what other channels have left there.
inline void write_rows(const ScanProblem& s, const Maps& m, const Chunk& chunk, const float* rows,
                       bool begin) {
  for (int t = 0; t < chunk.count; ++t) {
    float* b = m.grad_b + chunk.now[t] * s.states;
    float* c = m.grad_c + chunk.now[t] * s.states;
    const float* b_row = rows + 2 * t * s.states;
    const float* c_row = b_row + s.states;
    for (int64_t n = 0; n < s.states; ++n) {
      b[n] = begin ? b_row[n] : b[n] + b_row[n];
      c[n] = begin ? c_row[n] : c[n] + c_row[n];
    }
  }
}

// Some pairs of channels through one direction and back.
inline void backward_pairs(const ScanProblem& s, const BackwardTask& task, const Maps& m,
                           int64_t channel, int64_t channel_end, ReverseSteps& r) {
  const int64_t each = kPair * s.states * W;
  const int64_t chunks = (s.length + kSpan - 1) / kSpan;
  Pair pairs[kMostPairs];
  int64_t count = 0;
  float* rows = task.scratch;
  float* scratch = rows + kSpan * 2 * s.states;
  for (int64_t d = channel; d < channel_end; d += kPair * W) {
    scratch = begin_pair(s, m, d, channel_end, scratch, pairs[count++]);
  }
  float* checkpoints = scratch;  // [chunk][pair][vector][state][lane]
  Chunk chunk;
  const auto after = [&](int64_t j, int64_t this_chunk, int64_t next_chunk) {
    const bool last = j + 1 == count;
    const int64_t other = last ? 0 : j + 1;
    return Ahead{last ? chunk.next : chunk.now, pairs[other].channel,
                 checkpoints + ((last ? next_chunk : this_chunk) * count + other) * each};
  };

  for (int64_t i = 0; i < chunks; ++i) {
    begin_chunk(s, m, i, i + 1, chunk);
    for (int64_t j = 0; j < count; ++j) {
      const Pair& p = pairs[j];
      const Ahead ahead = after(j, i, i);
      memcpy(checkpoints + (i * count + j) * each, p.state,
             static_cast<size_t>(each) * sizeof(float));
      if (p.vectors == kPair) {
        forward_chunk<kPair>(s, m, chunk, ahead, p, r);
      } else {
        forward_chunk<1>(s, m, chunk, ahead, p, r);
      }
    }
  }
  for (int64_t i = chunks - 1; i >= 0; --i) {
    begin_chunk(s, m, i, i - 1, chunk);
    for (int64_t j = 0; j < count; ++j) {
      Pair& p = pairs[j];
      const float* checkpoint = checkpoints + (i * count + j) * each;
      const Ahead ahead = after(j, i, i > 0 ? i - 1 : 0);
      if (p.vectors == kPair) {
        reverse_chunk<kPair>(s, m, chunk, ahead, checkpoint, p, r, rows, j == 0);
      } else {
        reverse_chunk<1>(s, m, chunk, ahead, checkpoint, p, r, rows, j == 0);
      }
      if (i % kChunksPerFlush == 0) flush_sums(p, each);
    }
    write_rows(s, m, chunk, rows, channel == task.channel);
  }
  for (int64_t j = 0; j < count; ++j) end_pair(s, task, m.direction, pairs[j]);
}

inline void backward(const ScanProblem& s, const BackwardTask& task) {
  alignas(64) ReverseSteps r;
  const int64_t together = pairs_together(s, task.channel_end - task.channel) * kPair * W;
  for (int64_t k = task.direction; k < task.direction_end; ++k) {
    const int64_t bk = task.batch * s.directions + k;
    Maps m;
    m.direction = k;
    m.u = s.u + task.batch * s.u_batch;
    m.delta = s.delta + task.batch * s.delta_batch + k * s.delta_direction;
    m.b = s.b + task.batch * s.b_batch + k * s.b_direction;
    m.c = s.c + task.batch * s.c_batch + k * s.c_direction;
    m.grad = s.grad_y + task.batch * s.grad_batch;
    m.order = s.order + k * s.length;
    m.grad_u = task.grad_u + task.batch * s.length * s.channels;
    m.grad_delta = s.grad_delta + bk * s.length * s.channels;
    m.grad_b = task.grad_b + bk * s.length * s.states;
    m.grad_c = task.grad_c + bk * s.length * s.states;
    m.accumulate_u = k > task.direction;
    for (int64_t d = task.channel; d < task.channel_end; d += together) {
      const int64_t end = d + together < task.channel_end ? d + together : task.channel_end;
      backward_pairs(s, task, m, d, end, r);
    }
  }
}

#define RSMAMBA_KERNELS                                                             \
  {                                                                                 \
    RSMAMBA_NS::W, RSMAMBA_NS::kPair * RSMAMBA_NS::W, RSMAMBA_NS::forward_scratch,  \
        RSMAMBA_NS::backward_scratch, RSMAMBA_NS::forward, RSMAMBA_NS::backward     \
  }

}  // namespace RSMAMBA_NS
