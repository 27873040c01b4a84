// The backward kernel: checkpoints of the state, recomputation chunk by chunk, a reverse sweep.
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
// their G and dA stay in registers.
#pragma once

#include "forward.h"

namespace RSMAMBA_NS {

using rsmamba::BackwardTask;

constexpr int kPair = 2;
constexpr int kPart = 4;
constexpr int kSpan = 16;            // steps between checkpoints
constexpr int kChunksPerFlush = 32;  // float sums are moved to doubles this often
static_assert(2 * kPart <= 8, "reduce8 takes the dB and dC of one part");

struct ReverseSteps {
  float dt[kPair][kSpan * W];
  float dtu[kPair][kSpan * W];
  float slope[kPair][kSpan * W];
  float grad[kPair][kSpan * W];
  float grad_b_dot[kPair][kSpan * W];  // G . B
  float grad_a_dot[kPair][kSpan * W];  // sum over n of w A log2(e)
  float history[(kSpan + 1) * kPair * kPart * W];
  float decay[kSpan * kPair * kPart * W];
  float sums[kSpan * 8];
};

// Where one pair of vectors keeps what outlives a chunk; all [vector][state][lane].
struct PairState {
  float* a;
  float* state;
  float* grad_state;
  float* grad_a;
  double* grad_a_total;
  float* checkpoints;  // [chunk][vector][state][lane]
};

template <int NS>
RS_INLINE void advance_quietly(const float* a, float* state, const float* dt, const float* dtu,
                               const float* const* b, int64_t n0, int count) {
  V h[NS];
  for (int n = 0; n < NS; ++n) h[n] = load(state + n * W);
  for (int t = 0; t < count; ++t) {
    const V dtt = load(dt + t * W);
    const V dtut = load(dtu + t * W);
    for (int n = 0; n < NS; ++n) {
      h[n] = fma(h[n], exp2(mul(dtt, load(a + n * W))), mul(dtut, set1(b[t][n0 + n])));
    }
  }
  for (int n = 0; n < NS; ++n) store(state + n * W, h[n]);
}

// One chunk backwards for NS states of VV vectors, `stride` floats apart.
template <int VV, int NS>
RS_INLINE void reverse_part(ReverseSteps& r, const PairState& p, int64_t stride,
                            const float* checkpoint, const float* const* b, const float* const* c,
                            int64_t n0, int count) {
  constexpr int kStep = VV * NS * W;
  {
    V h[VV][NS];
    for (int v = 0; v < VV; ++v) {
      for (int n = 0; n < NS; ++n) h[v][n] = load(checkpoint + v * stride + (n0 + n) * W);
    }
    for (int t = 0; t < count; ++t) {
      for (int v = 0; v < VV; ++v) {
        const V dt = load(r.dt[v] + t * W);
        const V dtu = load(r.dtu[v] + t * W);
        for (int n = 0; n < NS; ++n) {
          const V decay = exp2(mul(dt, load(p.a + v * stride + (n0 + n) * W)));
          store(r.history + t * kStep + (v * NS + n) * W, h[v][n]);
          store(r.decay + t * kStep + (v * NS + n) * W, decay);
          h[v][n] = fma(h[v][n], decay, mul(dtu, set1(b[t][n0 + n])));
        }
      }
    }
    for (int v = 0; v < VV; ++v) {
      for (int n = 0; n < NS; ++n) store(r.history + count * kStep + (v * NS + n) * W, h[v][n]);
    }
  }
  V g[VV][NS];
  V ga[VV][NS];
  for (int v = 0; v < VV; ++v) {
    for (int n = 0; n < NS; ++n) {
      g[v][n] = load(p.grad_state + v * stride + (n0 + n) * W);
      ga[v][n] = load(p.grad_a + v * stride + (n0 + n) * W);
    }
  }
  for (int t = count - 1; t >= 0; --t) {
    V sums[8];
    for (int i = 2 * NS; i < 8; ++i) sums[i] = set1(0.0f);
    for (int v = 0; v < VV; ++v) {
      const V dt = load(r.dt[v] + t * W);
      const V dtu = load(r.dtu[v] + t * W);
      const V gy = load(r.grad[v] + t * W);
      V b_dot = load(r.grad_b_dot[v] + t * W);
      V a_dot = load(r.grad_a_dot[v] + t * W);
      for (int n = 0; n < NS; ++n) {
        const float* history = r.history + t * kStep + (v * NS + n) * W;
        const V total = fma(gy, set1(c[t][n0 + n]), g[v][n]);
        const V h = load(history + kStep);
        sums[n] = v == 0 ? mul(total, dtu) : fma(total, dtu, sums[n]);
        sums[NS + n] = v == 0 ? mul(gy, h) : fma(gy, h, sums[NS + n]);
        b_dot = fma(total, set1(b[t][n0 + n]), b_dot);
        g[v][n] = mul(total, load(r.decay + t * kStep + (v * NS + n) * W));
        const V w = mul(g[v][n], load(history));
        ga[v][n] = fma(w, dt, ga[v][n]);
        a_dot = fma(w, load(p.a + v * stride + (n0 + n) * W), a_dot);
      }
      store(r.grad_b_dot[v] + t * W, b_dot);
      store(r.grad_a_dot[v] + t * W, a_dot);
    }
    reduce8(sums, r.sums + t * 8);
  }
  for (int v = 0; v < VV; ++v) {
    for (int n = 0; n < NS; ++n) {
      store(p.grad_state + v * stride + (n0 + n) * W, g[v][n]);
      store(p.grad_a + v * stride + (n0 + n) * W, ga[v][n]);
    }
  }
}

// Adds the sums over the channels to the rows of dB and dC, or starts the rows with them.
template <int NS>
RS_INLINE void write_sums(const ReverseSteps& r, const int32_t* now, float* grad_b, float* grad_c,
                          int64_t states, int64_t n0, int count, bool start) {
  for (int t = 0; t < count; ++t) {
    float* bt = grad_b + now[t] * states + n0;
    float* ct = grad_c + now[t] * states + n0;
    const float* sums = r.sums + t * 8;
    for (int n = 0; n < NS; ++n) {
      bt[n] = start ? sums[n] : bt[n] + sums[n];
      ct[n] = start ? sums[NS + n] : ct[n] + sums[NS + n];
    }
  }
}

inline int64_t backward_scratch(const ScanProblem& s) {
  const int64_t chunks = (s.length + kSpan - 1) / kSpan;
  const int64_t each = kPair * s.states * W;
  return each * (chunks + 4) + 2 * each;
}

// What of a pair does not change along one direction.
struct PairPlace {
  int64_t direction;
  int64_t channel;
  int lanes[kPair];
  const float *u, *delta, *b, *c, *grad;
  const int32_t* order;
  float *grad_u, *grad_delta, *grad_b, *grad_c;
  bool accumulate_u, start_sums;
};

template <int VV>
RS_INLINE void stage(const ScanProblem& s, const PairPlace& at, const int32_t* now,
                     const int32_t* next, int count, bool with_gradient, ReverseSteps& r) {
  for (int v = 0; v < VV; ++v) {
    const int64_t d = at.channel + v * W;
    const int lanes = at.lanes[v];
    const V bias =
        s.bias ? load_some(s.bias + at.direction * s.channels + d, lanes) : set1(0.0f);
    for (int t = 0; t < count; ++t) {
      const V x = add(load_some(at.delta + now[t] * s.delta_length + d, lanes), bias);
      const V u = load_some(at.u + now[t] * s.u_length + d, lanes);
      __builtin_prefetch(at.delta + next[t] * s.delta_length + d);
      __builtin_prefetch(at.u + next[t] * s.u_length + d);
      if (with_gradient) {
        __builtin_prefetch(at.grad + next[t] * s.grad_length + d);
        __builtin_prefetch(at.grad_u + next[t] * s.channels + d, 1);
        __builtin_prefetch(at.grad_delta + next[t] * s.channels + d, 1);
      }
      V y = set1(0.0f);
      const V dt = s.softplus ? softplus(x, &y) : x;
      store(r.dt[v] + t * W, dt);
      store(r.dtu[v] + t * W, mul(dt, u));
      if (with_gradient) {
        store(r.slope[v] + t * W, s.softplus ? softplus_slope(x, y) : set1(1.0f));
        store(r.grad[v] + t * W, load_some(at.grad + now[t] * s.grad_length + d, lanes));
        store(r.grad_b_dot[v] + t * W, set1(0.0f));
        store(r.grad_a_dot[v] + t * W, set1(0.0f));
      }
    }
  }
}

template <int VV>
inline void backward_pair(const ScanProblem& s, const BackwardTask& task, const PairPlace& at,
                          const PairState& p, ReverseSteps& r) {
  constexpr float kLn2 = 0.693147181f;
  const int64_t stride = s.states * W;
  const int64_t chunks = (s.length + kSpan - 1) / kSpan;
  const float* b[kSpan];
  const float* c[kSpan];

  for (int v = 0; v < VV; ++v) {
    pack_a(s, at.direction, at.channel + v * W, at.lanes[v], p.a + v * stride);
  }
  const size_t bytes = static_cast<size_t>(VV * stride) * sizeof(float);
  memset(p.state, 0, bytes);
  memset(p.grad_state, 0, bytes);
  memset(p.grad_a, 0, bytes);
  for (int64_t i = 0; i < VV * stride; ++i) p.grad_a_total[i] = 0.0;

  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    memcpy(p.checkpoints + chunk * kPair * stride, p.state, bytes);
    if (chunk + 1 == chunks) break;
    const int32_t* now = at.order + chunk * kSpan;
    for (int t = 0; t < kSpan; ++t) b[t] = at.b + now[t] * s.b_length;
    const int32_t* next = chunk + 2 < chunks ? now + kSpan : now;
    stage<VV>(s, at, now, next, kSpan, false, r);
    for (int v = 0; v < VV; ++v) {
      const float* a = p.a + v * stride;
      float* state = p.state + v * stride;
      int64_t n = 0;
      for (; n + kGroup <= s.states; n += kGroup) {
        advance_quietly<kGroup>(a + n * W, state + n * W, r.dt[v], r.dtu[v], b, n, kSpan);
      }
      for (; n + 4 <= s.states; n += 4) {
        advance_quietly<4>(a + n * W, state + n * W, r.dt[v], r.dtu[v], b, n, kSpan);
      }
      for (; n < s.states; ++n) {
        advance_quietly<1>(a + n * W, state + n * W, r.dt[v], r.dtu[v], b, n, kSpan);
      }
    }
  }

  // Sums over time, in three stages so that a million steps lose no accuracy: in registers, in
  // floats over kChunksPerFlush chunks, in doubles.
  double bias_total[VV * W] = {};
  double skip_total[VV * W] = {};
  alignas(64) float bias_sum[VV * W] = {};
  alignas(64) float skip_sum[VV * W] = {};
  V skip[VV];
  for (int v = 0; v < VV; ++v) {
    skip[v] = set1(0.0f);
    if (at.direction == 0 && s.skip) {
      for (int64_t j = 0; j < s.directions; ++j) {
        const float* weights = s.skip + j * s.channels + at.channel + v * W;
        skip[v] = add(skip[v], load_some(weights, at.lanes[v]));
      }
    }
  }

  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const int64_t left = s.length - chunk * kSpan;
    const int count = static_cast<int>(left < kSpan ? left : kSpan);
    const int32_t* now = at.order + chunk * kSpan;
    const int32_t* next = chunk > 0 ? now - kSpan : now;
    for (int t = 0; t < count; ++t) {
      b[t] = at.b + now[t] * s.b_length;
      c[t] = at.c + now[t] * s.c_length;
      __builtin_prefetch(at.b + next[t] * s.b_length);
      __builtin_prefetch(at.c + next[t] * s.c_length);
      __builtin_prefetch(at.grad_b + next[t] * s.states, 1);
      __builtin_prefetch(at.grad_c + next[t] * s.states, 1);
    }
    stage<VV>(s, at, now, next, count, true, r);
    const float* checkpoint = p.checkpoints + chunk * kPair * stride;
    int64_t n = 0;
    for (; n + kPart <= s.states; n += kPart) {
      reverse_part<VV, kPart>(r, p, stride, checkpoint, b, c, n, count);
      write_sums<kPart>(r, now, at.grad_b, at.grad_c, s.states, n, count, at.start_sums);
    }
    for (; n < s.states; ++n) {
      reverse_part<VV, 1>(r, p, stride, checkpoint, b, c, n, count);
      write_sums<1>(r, now, at.grad_b, at.grad_c, s.states, n, count, at.start_sums);
    }

    for (int v = 0; v < VV; ++v) {
      const int64_t d = at.channel + v * W;
      const int lanes = at.lanes[v];
      V bias_part = load(bias_sum + v * W);
      V skip_part = load(skip_sum + v * W);
      for (int t = 0; t < count; ++t) {
        const V u = load_some(at.u + now[t] * s.u_length + d, lanes);
        const V gy = load(r.grad[v] + t * W);
        const V b_dot = load(r.grad_b_dot[v] + t * W);
        const V a_dot = mul(load(r.grad_a_dot[v] + t * W), set1(kLn2));
        const V raw = mul(fma(b_dot, u, a_dot), load(r.slope[v] + t * W));
        store_some(at.grad_delta + now[t] * s.channels + d, raw, lanes);
        bias_part = add(bias_part, raw);
        V gu = mul(b_dot, load(r.dt[v] + t * W));
        if (at.direction == 0 && s.skip) {
          gu = fma(gy, skip[v], gu);
          skip_part = fma(gy, u, skip_part);
        }
        float* out = at.grad_u + now[t] * s.channels + d;
        store_some(out, at.accumulate_u ? add(load_some(out, lanes), gu) : gu, lanes);
      }
      store(bias_sum + v * W, bias_part);
      store(skip_sum + v * W, skip_part);
    }
    if (chunk % kChunksPerFlush == 0) {
      for (int64_t i = 0; i < VV * stride; ++i) p.grad_a_total[i] += p.grad_a[i];
      memset(p.grad_a, 0, bytes);
      for (int i = 0; i < VV * W; ++i) {
        bias_total[i] += bias_sum[i];
        skip_total[i] += skip_sum[i];
        bias_sum[i] = skip_sum[i] = 0.0f;
      }
    }
  }

  for (int v = 0; v < VV; ++v) {
    for (int i = 0; i < at.lanes[v]; ++i) {
      const int64_t d = at.channel + v * W + i;
      const int64_t kd = at.direction * s.channels + d;
      for (int64_t n = 0; n < s.states; ++n) {
        task.grad_a[kd * s.states + n] = p.grad_a_total[v * stride + n * W + i];
      }
      task.grad_bias[kd] = bias_total[v * W + i];
      if (at.direction == 0) task.grad_skip[d] = skip_total[v * W + i];
    }
  }
}

inline void backward(const ScanProblem& s, const BackwardTask& task) {
  alignas(64) ReverseSteps r;
  const int64_t each = kPair * s.states * W;
  PairState p;
  p.grad_a_total = reinterpret_cast<double*>(task.scratch);
  p.a = task.scratch + 2 * each;
  p.state = p.a + each;
  p.grad_state = p.state + each;
  p.grad_a = p.grad_state + each;
  p.checkpoints = p.grad_a + each;

  for (int64_t k = task.direction; k < task.direction_end; ++k) {
    const int64_t bk = task.batch * s.directions + k;
    PairPlace at;
    at.direction = k;
    at.u = s.u + task.batch * s.u_batch;
    at.delta = s.delta + task.batch * s.delta_batch + k * s.delta_direction;
    at.b = s.b + task.batch * s.b_batch + k * s.b_direction;
    at.c = s.c + task.batch * s.c_batch + k * s.c_direction;
    at.grad = s.grad_y + task.batch * s.grad_batch;
    at.order = s.order + k * s.length;
    at.grad_u = task.grad_u + task.batch * s.length * s.channels;
    at.grad_delta = s.grad_delta + bk * s.length * s.channels;
    at.grad_b = task.grad_b + bk * s.length * s.states;
    at.grad_c = task.grad_c + bk * s.length * s.states;
    at.accumulate_u = k > task.direction;
    for (at.channel = task.channel; at.channel < task.channel_end; at.channel += kPair * W) {
      at.start_sums = at.channel == task.channel;
      const int64_t left = task.channel_end - at.channel;
      for (int v = 0; v < kPair; ++v) {
        const int64_t rest = left - v * W;
        at.lanes[v] = static_cast<int>(rest < 0 ? 0 : rest < W ? rest : W);
      }
      if (left > W) {
        backward_pair<2>(s, task, at, p, r);
      } else {
        backward_pair<1>(s, task, at, p, r);
      }
    }
  }
}

#define RSMAMBA_KERNELS                                                             \
  {                                                                                 \
    RSMAMBA_NS::W, RSMAMBA_NS::kPair * RSMAMBA_NS::W, RSMAMBA_NS::forward_scratch,  \
        RSMAMBA_NS::backward_scratch, RSMAMBA_NS::forward, RSMAMBA_NS::backward     \
  }

}  // namespace RSMAMBA_NS
