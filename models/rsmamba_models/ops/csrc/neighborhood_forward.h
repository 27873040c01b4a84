// Neighbourhood attention, one vector of neighbouring queries of a row at a time.
//
// The lanes are queries, so that the sums over channels and over the window are plain sums of
// vectors. Inside the map all lanes have their windows at the same offsets from themselves; near
// the left and right border the vector takes the union of its lanes' offsets and masks what lies
// outside a lane's own window. An offset's bias is the same for all lanes either way. Keys and
// values are copied, row by row and only once, into planar rows, of which as many are kept as
// windows have rows. Two rows of queries go together, since their windows share all rows but one
// and what bounds the speed is loading keys and values at odd offsets.
#pragma once

#include "neighborhood_rows.h"

namespace RSMAMBA_NS {

using rsmamba::NeighborhoodForwardTask;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
// Sums per row of queries that are kept in registers, where R rows go together.
template <int R>
constexpr int kMost = kRegisters == 32 ? 12 : 12 / R;

// A function of its own for each loop whose sums must stay in registers: inlined into one another
// they are too much for GCC, which then keeps them in memory.
#define RS_ALONE __attribute__((noinline))

RS_INLINE V larger(V a, V b) { return if_negative(sub(a, b), b, a); }

// The windows of one vector of queries in R neighbouring rows, in planar rows of a map. Row r of
// the union of the windows belongs to query row 0 up to r < count and to query row 1 from shift on.
struct Window {
  const Rows* rows;
  int64_t row, count, shift;  // the union: map rows [row, row + count + shift)
  int64_t column, offsets;    // lane 0 sees map columns [column, column + offsets)
};

// out[i][j][lane] = sum over channels of a[channel][i][lane] * row[channel][lane + j], for N
// offsets j and R query rows i, which lie a_step floats apart.
template <int N, int R>
RS_ALONE void dot(const float* a, int64_t a_step, int64_t a_pitch, const float* row, int64_t pitch,
                  int64_t size, float* const* out) {
  V sums[R][N];
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < N; ++j) sums[i][j] = set1(0.0f);
  }
  for (int64_t c = 0; c < size; ++c, a += a_pitch, row += pitch) {
    const V x = load(a);
    const V y = R == 2 ? load(a + a_step) : x;
    for (int j = 0; j < N; ++j) {
      V b = load(row + j);
      if (R == 2) RS_HOLD(b);
      sums[0][j] = fma(x, b, sums[0][j]);
      if (R == 2) sums[R - 1][j] = fma(y, b, sums[R - 1][j]);
    }
  }
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < N; ++j) store(out[i] + j * W, sums[i][j]);
  }
}

// sums[i][n] += sum over offsets j of w[i][j][lane] * row[channel n][lane + j].
template <int N, int R>
RS_INLINE void mix_row(const float** w, const float* row, int64_t pitch, int64_t offsets,
                       V (*sums)[N]) {
  for (int64_t j = 0; j < offsets; ++j, ++row) {
    const V x = load(w[0]);
    const V y = R == 2 ? load(w[R - 1]) : x;
    for (int n = 0; n < N; ++n) {
      V b = load(row + n * pitch);
      if (R == 2) RS_HOLD(b);
      sums[0][n] = fma(x, b, sums[0][n]);
      if (R == 2) sums[R - 1][n] = fma(y, b, sums[R - 1][n]);
    }
    for (int i = 0; i < R; ++i) w[i] += W;
  }
}

// out[n][i][lane] = sum over window rows r and offsets j of
//   w[i][r][j][lane] * window[r][channel n][lane + j], for N channels n from `first` on.
template <int N, int R>
RS_ALONE void mix(const float* const* w, const Window& window, int64_t first, float* out) {
  const int64_t pitch = window.rows->pitch;
  const float* at[R];
  V sums[R][N];
  for (int i = 0; i < R; ++i) {
    at[i] = w[i];
    for (int n = 0; n < N; ++n) sums[i][n] = set1(0.0f);
  }
  const int64_t end = window.count + window.shift;
  for (int64_t r = 0; r < end; ++r) {
    const float* row = window.rows->at(window.row + r, window.column) + first * pitch;
    if (R == 2 && r < window.shift) {
      mix_row<N, 1>(at, row, pitch, window.offsets, sums);
    } else if (R == 2 && r >= window.count) {
      mix_row<N, 1>(at + R - 1, row, pitch, window.offsets, sums + R - 1);
    } else {
      mix_row<N, R>(at, row, pitch, window.offsets, sums);
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int i = 0; i < R; ++i) store(out + (n * R + i) * W, sums[i][n]);
  }
}

// Calls f.template run<n>(first) for parts of [0, total) of nearly equal sizes n, at most kMost<R>.
template <int R, typename F>
RS_INLINE void in_parts(int64_t total, F f) {
  const int64_t parts = (total + kMost<R> - 1) / kMost<R>;
  for (int64_t part = 0, first = 0; part < parts; ++part) {
    const int64_t n = (total - first + parts - part - 1) / (parts - part);
    switch (n) {
      case 1: f.template run<1>(first); break;
      case 2: f.template run<2>(first); break;
      case 3: f.template run<3>(first); break;
      case 4: f.template run<4>(first); break;
      case 5: f.template run<5>(first); break;
      case 6: f.template run<6>(first); break;
      default: break;
    }
    if constexpr (kMost<R> > 6) {
      switch (n) {
        case 7: f.template run<7>(first); break;
        case 8: f.template run<8>(first); break;
        case 9: f.template run<9>(first); break;
        case 10: f.template run<10>(first); break;
        case 11: f.template run<11>(first); break;
        case 12: f.template run<12>(first); break;
        default: break;
      }
    }
    first += n;
  }
}

template <int R>
struct Dot {
  const float* a;
  int64_t a_step, a_pitch;
  const float* row;
  int64_t pitch, size;
  float* out[R];
  template <int N>
  RS_INLINE void run(int64_t first) const {
    float* to[R];
    for (int i = 0; i < R; ++i) to[i] = out[i] + first * W;
    dot<N, R>(a, a_step, a_pitch, row + first, pitch, size, to);
  }
};

template <int R>
struct Mix {
  const float* const* w;
  const Window* window;
  float* out;
  template <int N>
  RS_INLINE void run(int64_t first) const {
    mix<N, R>(w, *window, first, out + first * R * W);
  }
};

// out[i][r][j][lane] = products of R vectors of queries, a[channel][i][lane], with their windows.
template <int R>
RS_INLINE void dot_window(const float* a, int64_t a_pitch, const Window& window,
                          float* const* out) {
  const Rows& rows = *window.rows;
  const int64_t step = window.offsets * W;
  for (int64_t r = 0; r < window.count + window.shift; ++r) {
    const float* row = rows.at(window.row + r, window.column);
    const bool first = r < window.count;
    const bool second = R == 2 && r >= window.shift;
    Dot<R> both = {a, W, a_pitch, row, rows.pitch, rows.size, {}};
    both.out[0] = out[0] + r * step;
    both.out[R - 1] = out[R - 1] + (r - window.shift) * step;
    if (first && (R == 1 || second)) {
      in_parts<R>(window.offsets, both);
    } else {
      const int i = first ? 0 : R - 1;
      in_parts<1>(window.offsets, Dot<1>{a + i * W, 0, a_pitch, row, rows.pitch, rows.size,
                                         {both.out[i]}});
    }
  }
}

// out[channel][i][lane] = the windows' channels, weighted by w[i][r][j][lane].
template <int R>
RS_INLINE void mix_window(const float* const* w, const Window& window, float* out) {
  in_parts<R>(window.rows->size, Mix<R>{w, &window, out});
}

// Turns products (in powers of two) into shares, not yet divided by their sum, which is returned.
//   table: bias in powers of two at the window's first row and lane 0's first offset, or null.
inline V to_shares(float* scores, int64_t rows, const Lanes& lanes, const float* table,
                   int64_t side) {
  V most = set1(kOutside);
  float* p = scores;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < lanes.offsets; ++j, p += W) {
      V x = load(p);
      if (table) x = add(x, set1(table[r * side + j]));
      if (lanes.mask) x = add(x, load(lanes.mask + j * W));
      x = at_least(kOutside, x);
      store(p, x);
      most = larger(most, x);
    }
  }
  V norm = set1(0.0f);
  const float* end = p;
  for (p = scores; p < end; p += W) {
    const V x = exp2(sub(load(p), most));
    store(p, x);
    norm = add(norm, x);
  }
  return norm;
}

// The bias table of one head in powers of two; null without bias.
inline const float* scaled_table(const NeighborhoodProblem& s, int64_t head, float* to) {
  if (!s.bias) return nullptr;
  const int64_t count = (2 * s.kernel_size - 1) * (2 * s.kernel_size - 1);
  for (int64_t i = 0; i < count; ++i) to[i] = s.bias[head * count + i] * kLog2e;
  return to;
}

// What the forward pass keeps for a rectangle of queries `columns` wide.
struct ForwardSpace {
  Rows keys, values;
  AllLanes all_lanes;
  float *query, *scores[2], *table, *result;
  int64_t used;

  ForwardSpace(float* memory, const NeighborhoodProblem& s, int64_t column, int64_t columns) {
    Space space(memory);
    const int64_t side = 2 * s.kernel_size - 1;
    const int64_t offsets = 2 * s.columns - 1;
    keys = take_rows(space, s, s.rows + 1, column, columns);
    values = take_rows(space, s, s.rows + 1, column, columns);
    query = space.take(s.size * 2 * W);
    for (float*& one : scores) one = space.take(s.rows * offsets * W);
    all_lanes.take(space, s, columns);
    table = space.take(side * side);
    result = space.take(s.size * 2 * W);
    used = space.used();
  }
};

inline int64_t forward_scratch(const NeighborhoodProblem& s, int64_t columns) {
  return ForwardSpace(nullptr, s, 0, columns).used;
}

// One vector of queries in rows i to i + R - 1, whose keys and values are held.
template <int R>
RS_INLINE void attend(const NeighborhoodProblem& s, const NeighborhoodForwardTask& task,
                      const ForwardSpace& space, const float* table, int64_t i,
                      const Lanes& lanes) {
  const int64_t x = lanes.x;
  const int64_t side = 2 * s.kernel_size - 1;
  const float* q = head_of(s.q, s.q_strides, task.batch, task.head);
  float* y = head_of(s.y, s.y_strides, task.batch, task.head);
  const int64_t start = window_start(i, s.height, s.rows);
  const int64_t shift = window_start(i + R - 1, s.height, s.rows) - start;
  Window window = {&space.keys, start, s.rows, shift, x + lanes.low, lanes.offsets};
  for (int n = 0; n < R; ++n) {
    pack(q + (i + n) * s.q_strides[2], s.q_strides, x, x + lanes.count, s.scale * kLog2e, s.size,
         space.query + n * W, R * W);
  }
  dot_window<R>(space.query, R * W, window, space.scores);
  V inverse[R];
  for (int n = 0; n < R; ++n) {
    const int64_t first = start + n * shift - (i + n);  // key row minus query row
    const float* at = table ? table + (first + s.kernel_size - 1) * side + lanes.low +
                                  s.kernel_size - 1
                            : nullptr;
    inverse[n] = div(set1(1.0f), to_shares(space.scores[n], s.rows, lanes, at, side));
  }
  window.rows = &space.values;
  mix_window<R>(space.scores, window, space.result);
  for (int64_t c = 0; c < s.size; ++c) {
    for (int n = 0; n < R; ++n) {
      float* to = space.result + (c * R + n) * W;
      store(to, mul(load(to), inverse[n]));
    }
  }
  for (int n = 0; n < R; ++n) {
    unpack(space.result + n * W, R * W, 1.0f, s.size, x, x + lanes.count,
           y + (i + n) * s.y_strides[2], s.y_strides);
  }
}

inline void forward(const NeighborhoodProblem& s, const NeighborhoodForwardTask& task) {
  const ForwardSpace space(task.scratch, s, task.column, task.column_end - task.column);
  const float* table = scaled_table(s, task.head, space.table);
  const float* k = head_of(s.k, s.k_strides, task.batch, task.head);
  const float* v = head_of(s.v, s.v_strides, task.batch, task.head);
  // What the lanes read beyond the map or beyond the rectangle's keys must be finite.
  clear(space.keys.memory, 2 * (space.values.memory - space.keys.memory));
  clear(space.query, s.size * 2 * W);
  space.all_lanes.fill(s, task.column, task.column_end);
  const int64_t first = window_start(task.column, s.width, s.columns);
  const int64_t last = window_start(task.column_end - 1, s.width, s.columns) + s.columns;

  int64_t next = window_start(task.row, s.height, s.rows);
  for (int64_t i = task.row; i < task.row_end;) {
    const int64_t together = i + 1 < task.row_end ? 2 : 1;
    const int64_t end = window_start(i + together - 1, s.height, s.rows) + s.rows;
    for (; next < end; ++next) {
      pack(k + next * s.k_strides[2], s.k_strides, first, last, 1.0f, s.size,
           space.keys.at(next, first), space.keys.pitch);
      pack(v + next * s.v_strides[2], s.v_strides, first, last, 1.0f, s.size,
           space.values.at(next, first), space.values.pitch);
    }
    const Lanes* lanes = space.all_lanes.lanes;
    for (int64_t x = task.column; x < task.column_end; x += W, ++lanes) {
      if (together == 2) {
        attend<2>(s, task, space, table, i, *lanes);
      } else {
        attend<1>(s, task, space, table, i, *lanes);
      }
    }
    i += together;
  }
}

}  // namespace RSMAMBA_NS
