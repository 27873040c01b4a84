// The gradients of neighbourhood attention: the shares are computed again, row of queries by row.
//
// With s the scores, p the shares and g the gradient that arrives at a query,
//
//   dp = g . v        ds = p (dp - sum p dp)        dq = scale sum ds k
//   dk += scale ds q  dv += p g                     dbias += ds
//
// Each key gets its sums from the queries that see it: p and ds of a row of queries are laid out by
// offset and map column, so that these sums are read like those of the forward pass, mirrored.
#pragma once

#include "neighborhood_forward.h"

namespace RSMAMBA_NS {

using rsmamba::NeighborhoodBackwardTask;

constexpr float kLn2 = 0.693147181f;
constexpr int64_t kRowsPerFlush = 16;  // float sums of the bias gradient are moved to doubles

// What the backward pass keeps for one head of one image.
struct BackwardSpace {
  Rows keys, values, grad_keys, grad_values, query, grad;
  // Of one row of queries: shares, and gradients of the scores.
  float *shares, *grad_scores;                // [window row][offset of the vector][lane]
  float *shares_plane, *grad_plane;           // [window row][any offset][map column]
  AllLanes all_lanes;
  float *table, *sums, *result;
  int64_t used;

  BackwardSpace(float* memory, const NeighborhoodProblem& s) {
    Space space(memory);
    const int64_t side = 2 * s.kernel_size - 1;
    const int64_t offsets = 2 * s.columns - 1;
    keys = take_rows(space, s, s.rows, 0, s.width);
    values = take_rows(space, s, s.rows, 0, s.width);
    grad_keys = take_rows(space, s, s.rows, 0, s.width);
    grad_values = take_rows(space, s, s.rows, 0, s.width);
    query = take_rows(space, s, 1, 0, s.width);
    grad = take_rows(space, s, 1, 0, s.width);
    shares = space.take(s.rows * offsets * W);
    grad_scores = space.take(s.rows * offsets * W);
    shares_plane = space.take(s.rows * offsets * keys.pitch);
    grad_plane = space.take(s.rows * offsets * keys.pitch);
    all_lanes.take(space, s, s.width);
    table = space.take(side * side);
    sums = space.take(side * side * W);
    result = space.take(s.size * W);
    used = space.used();
  }
};

inline int64_t backward_scratch(const NeighborhoodProblem& s) {
  return BackwardSpace(nullptr, s).used;
}

// Shares times `norm` and grad . value products to shares and gradients of the scores, in place.
inline void to_grad_scores(float* shares, float* grads, int64_t count, V norm) {
  const V inverse = div(set1(1.0f), norm);
  V mean = set1(0.0f);
  for (int64_t i = 0; i < count * W; i += W) {
    const V share = mul(load(shares + i), inverse);
    store(shares + i, share);
    mean = fma(share, load(grads + i), mean);
  }
  for (int64_t i = 0; i < count * W; i += W) {
    store(grads + i, mul(load(shares + i), sub(load(grads + i), mean)));
  }
}

// sums[channel n][lane] += sum over offsets j of w[j][lane - j] * row[channel n][lane - j], for N
// channels: what a vector of keys gets from the queries that see it at offsets low, low + 1, ...
template <int N>
RS_ALONE void gather(const float* w, const float* row, int64_t pitch, int64_t offsets,
                     float* sums) {
  V total[N];
  for (int n = 0; n < N; ++n) total[n] = load(sums + n * pitch);
  for (int64_t j = 0; j < offsets; ++j, w += pitch - 1, --row) {
    const V x = load(w);
    for (int n = 0; n < N; ++n) total[n] = fma(x, load(row + n * pitch), total[n]);
  }
  for (int n = 0; n < N; ++n) store(sums + n * pitch, total[n]);
}

struct Gather {
  const float* w;
  const float* row;
  int64_t pitch, offsets;
  float* sums;
  template <int N>
  RS_INLINE void run(int64_t first) const {
    gather<N>(w, row + first * pitch, pitch, offsets, sums + first * pitch);
  }
};

// Adds to one row of keys what one row of queries gives it. `plane` holds the weights of the row.
inline void gather_row(const NeighborhoodProblem& s, const float* plane, const Rows& queries,
                       const Rows& keys, int64_t row) {
  for (int64_t x = 0; x < s.width; x += W) {
    // The offsets at which the keys of this vector are seen.
    int64_t low = s.columns;
    int64_t high = -s.columns;
    for (int64_t key = x; key < x + W && key < s.width; ++key) {
      const int64_t first = key < s.columns ? 0 : key - s.columns + 1 + s.columns / 2;
      const int64_t last = key >= s.width - s.columns ? s.width - 1 : key + s.columns / 2;
      low = key - last < low ? key - last : low;
      high = key - first > high ? key - first : high;
    }
    const float* w =
        plane + (low + s.columns - 1) * keys.pitch + (x - low - queries.origin);
    in_parts<1>(s.size, Gather{w, queries.at(0, x - low), keys.pitch, high - low + 1,
                               keys.at(row, x)});
  }
}

// Adds the lanes of the float sums to doubles and clears them.
inline void flush(float* sums, int64_t count, double* to) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t lane = 0; lane < W; ++lane) to[i] += sums[i * W + lane];
  }
  clear(sums, count * W);
}

// One row of queries, whose keys and values are held: its grad_q, and what it adds to the rest.
inline void attend_back(const NeighborhoodProblem& s, const NeighborhoodBackwardTask& task,
                        const BackwardSpace& space, const float* table, int64_t i) {
  const int64_t side = 2 * s.kernel_size - 1;
  const int64_t start = window_start(i, s.height, s.rows);
  float* grad_q = head_of(s.grad_q, s.grad_q_strides, task.batch, task.head);
  for (int64_t x = 0; x < s.width; x += W) {
    const Lanes& lanes = space.all_lanes.lanes[x / W];
    Window window = {&space.keys, start, s.rows, 0, x + lanes.low, lanes.offsets};
    const int64_t corner = (start - i + s.kernel_size - 1) * side + lanes.low + s.kernel_size - 1;
    dot_window<1>(space.query.at(0, x), space.query.pitch, window, &space.shares);
    const V norm =
        to_shares(space.shares, s.rows, lanes, table ? table + corner : nullptr, side);
    window.rows = &space.values;
    dot_window<1>(space.grad.at(0, x), space.grad.pitch, window, &space.grad_scores);
    to_grad_scores(space.shares, space.grad_scores, s.rows * lanes.offsets, norm);
    window.rows = &space.keys;
    mix_window<1>(&space.grad_scores, window, space.result);
    unpack(space.result, W, s.scale, s.size, x, x + lanes.count,
           grad_q + i * s.grad_q_strides[2], s.grad_q_strides);

    for (int64_t r = 0; r < s.rows; ++r) {
      const int64_t line = r * (2 * s.columns - 1) + lanes.low + s.columns - 1;
      const int64_t at = line * space.keys.pitch + (x - space.keys.origin);
      const int64_t from = r * lanes.offsets * W;
      float* sums = space.sums + (corner + r * side) * W;
      for (int64_t j = 0; j < lanes.offsets; ++j) {
        const V grad = load(space.grad_scores + from + j * W);
        store(space.shares_plane + at + j * space.keys.pitch, load(space.shares + from + j * W));
        store(space.grad_plane + at + j * space.keys.pitch, grad);
        if (task.grad_bias) store(sums + j * W, add(load(sums + j * W), grad));
      }
    }
  }
  const int64_t step = (2 * s.columns - 1) * space.keys.pitch;
  for (int64_t r = 0; r < s.rows; ++r) {
    gather_row(s, space.grad_plane + r * step, space.query, space.grad_keys, start + r);
    gather_row(s, space.shares_plane + r * step, space.grad, space.grad_values, start + r);
  }
}

inline void backward(const NeighborhoodProblem& s, const NeighborhoodBackwardTask& task) {
  const BackwardSpace space(task.scratch, s);
  clear(task.scratch, space.used);
  space.all_lanes.fill(s, 0, s.width);
  const float* table = scaled_table(s, task.head, space.table);
  const int64_t table_size = (2 * s.kernel_size - 1) * (2 * s.kernel_size - 1);
  const float* q = head_of(s.q, s.q_strides, task.batch, task.head);
  const float* k = head_of(s.k, s.k_strides, task.batch, task.head);
  const float* v = head_of(s.v, s.v_strides, task.batch, task.head);
  const float* grad_y = head_of(s.grad_y, s.grad_y_strides, task.batch, task.head);
  float* grad_k = head_of(s.grad_k, s.grad_k_strides, task.batch, task.head);
  float* grad_v = head_of(s.grad_v, s.grad_v_strides, task.batch, task.head);
  if (task.grad_bias) {
    for (int64_t i = 0; i < table_size; ++i) task.grad_bias[i] = 0.0;
  }

  int64_t next = 0;  // the first key row that is not yet held
  int64_t done = 0;  // the first key row that is still held
  for (int64_t i = 0; i <= s.height; ++i) {
    const int64_t start = i < s.height ? window_start(i, s.height, s.rows) : s.height;
    for (; done < start; ++done) {  // no window to come holds this row
      unpack(space.grad_keys.at(done, 0), space.grad_keys.pitch, kLn2, s.size, 0, s.width,
             grad_k + done * s.grad_k_strides[2], s.grad_k_strides);
      unpack(space.grad_values.at(done, 0), space.grad_values.pitch, 1.0f, s.size, 0, s.width,
             grad_v + done * s.grad_v_strides[2], s.grad_v_strides);
    }
    if (i == s.height) break;
    for (; next < start + s.rows; ++next) {
      pack(k + next * s.k_strides[2], s.k_strides, 0, s.width, 1.0f, s.size,
           space.keys.at(next, 0), space.keys.pitch);
      pack(v + next * s.v_strides[2], s.v_strides, 0, s.width, 1.0f, s.size,
           space.values.at(next, 0), space.values.pitch);
      const Rows& rows = space.grad_keys;
      clear(rows.at(next, rows.origin), s.size * rows.pitch);
      clear(space.grad_values.at(next, rows.origin), s.size * rows.pitch);
    }
    // In powers of two; what the keys gain by that is taken back by kLn2 above.
    pack(q + i * s.q_strides[2], s.q_strides, 0, s.width, s.scale * kLog2e, s.size,
         space.query.at(0, 0), space.query.pitch);
    pack(grad_y + i * s.grad_y_strides[2], s.grad_y_strides, 0, s.width, 1.0f, s.size,
         space.grad.at(0, 0), space.grad.pitch);
    attend_back(s, task, space, table, i);
    if (task.grad_bias && (i % kRowsPerFlush == kRowsPerFlush - 1 || i == s.height - 1)) {
      flush(space.sums, table_size, task.grad_bias);
    }
  }
}

#define RSMAMBA_NEIGHBORHOOD_KERNELS                                                      \
  {                                                                                       \
    RSMAMBA_NS::W, RSMAMBA_NS::forward_scratch, RSMAMBA_NS::backward_scratch,             \
        RSMAMBA_NS::forward, RSMAMBA_NS::backward                                         \
  }

}  // namespace RSMAMBA_NS
