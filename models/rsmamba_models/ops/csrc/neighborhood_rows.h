// How neighbourhood attention lays out what it works on: planar rows of keys and values, with room
// on both sides, and vectors of neighbouring queries with the offsets at which they see keys.
#pragma once

#include "neighborhood.h"
#include "simd.h"

namespace RSMAMBA_NS {

// Finite, because exp2 makes NaN of infinite differences; far below any logit that counts.
constexpr float kOutside = -1e30f;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline int64_t window_start(int64_t i, int64_t length, int64_t window) {
  const int64_t start = i - window / 2;
  const int64_t last = length - window;
  return start < 0 ? 0 : start > last ? last : start;
}

// Hands out parts of a task's scratch memory; without memory it only counts.
class Space {
 public:
  explicit Space(float* memory) : memory_(memory), used_(0) {}
  float* take(int64_t floats) {
    float* part = memory_ ? memory_ + used_ : nullptr;
    used_ += round_up(floats, 16);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  float* memory_;
  int64_t used_;
};

// Planar rows of a map: `slots` rows of `size` channels of `pitch` floats. Beyond the map: zero.
struct Rows {
  float* memory;
  int64_t slots, size, pitch, origin;  // origin: the map column at a row's first float

  float* at(int64_t row, int64_t column) const {
    return memory + row % slots * size * pitch + (column - origin);
  }
};

// Floats of one channel of one row. A multiple of 4096 bytes would put all channels into one set of
// the cache.
inline int64_t row_pitch(const NeighborhoodProblem& s, int64_t columns) {
  const int64_t pitch = round_up(columns + 2 * (s.columns - 1) + W, 16);
  return pitch % 128 == 0 ? pitch + 16 : pitch;
}

inline Rows take_rows(Space& space, const NeighborhoodProblem& s, int64_t slots, int64_t column,
                      int64_t columns) {
  Rows rows = {nullptr, slots, s.size, row_pitch(s, columns), column - (s.columns - 1)};
  rows.memory = space.take(slots * s.size * rows.pitch);
  return rows;
}

inline void clear(float* p, int64_t floats) {
  memset(p, 0, static_cast<size_t>(floats) * sizeof(float));
}

typedef float F4 __attribute__((vector_size(16)));
#if defined(__clang__) || __GNUC__ >= 12
#define RS_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t I4 __attribute__((vector_size(16)));
#define RS_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, I4{i, j, k, l})
#endif

// to[j][i] = from[i][j] * factor for i < rows, j < columns.
inline void transpose(const float* from, int64_t from_step, int64_t rows, int64_t columns,
                      float factor, float* to, int64_t to_step) {
  const int64_t whole = columns - columns % 4;
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    for (int64_t j = 0; j < whole; j += 4) {
      F4 a[4];
      for (int n = 0; n < 4; ++n) {
        memcpy(&a[n], from + (i + n) * from_step + j, sizeof(F4));
        a[n] *= factor;
      }
      const F4 b[4] = {RS_SHUFFLE(a[0], a[1], 0, 4, 1, 5),
                       RS_SHUFFLE(a[0], a[1], 2, 6, 3, 7),
                       RS_SHUFFLE(a[2], a[3], 0, 4, 1, 5),
                       RS_SHUFFLE(a[2], a[3], 2, 6, 3, 7)};
      const F4 c[4] = {RS_SHUFFLE(b[0], b[2], 0, 1, 4, 5),
                       RS_SHUFFLE(b[0], b[2], 2, 3, 6, 7),
                       RS_SHUFFLE(b[1], b[3], 0, 1, 4, 5),
                       RS_SHUFFLE(b[1], b[3], 2, 3, 6, 7)};
      for (int n = 0; n < 4; ++n) memcpy(to + (j + n) * to_step + i, &c[n], sizeof(F4));
    }
    for (int64_t j = whole; j < columns; ++j) {
      for (int n = 0; n < 4; ++n) to[j * to_step + i + n] = from[(i + n) * from_step + j] * factor;
    }
  }
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * to_step + i] = from[i * from_step + j] * factor;
  }
}

// Columns [first, last) of one row of a map, times a factor, into planar memory.
inline void pack(const float* map, const int64_t* strides, int64_t first, int64_t last,
                 float factor, int64_t size, float* to, int64_t pitch) {
  const float* from = map + first * strides[3];
  if (strides[4] == 1) {
    transpose(from, strides[3], last - first, size, factor, to, pitch);
    return;
  }
  for (int64_t c = 0; c < size; ++c, from += strides[4], to += pitch) {
    if (strides[3] == 1) {
      for (int64_t x = 0; x < last - first; ++x) to[x] = from[x] * factor;
    } else {
      for (int64_t x = 0; x < last - first; ++x) to[x] = from[x * strides[3]] * factor;
    }
  }
}

// And back.
inline void unpack(const float* from, int64_t pitch, float factor, int64_t size, int64_t first,
                   int64_t last, float* map, const int64_t* strides) {
  float* to = map + first * strides[3];
  if (strides[4] == 1) {
    transpose(from, pitch, size, last - first, factor, to, strides[3]);
    return;
  }
  for (int64_t c = 0; c < size; ++c, from += pitch, to += strides[4]) {
    if (strides[3] == 1) {
      for (int64_t x = 0; x < last - first; ++x) to[x] = from[x] * factor;
    } else {
      for (int64_t x = 0; x < last - first; ++x) to[x * strides[3]] = from[x] * factor;
    }
  }
}

// The start of one head of one image.
template <typename T>
RS_INLINE T* head_of(T* map, const int64_t* strides, int64_t batch, int64_t head) {
  return map + batch * strides[0] + head * strides[1];
}

// One vector of queries of a row, and the columns of their windows.
struct Lanes {
  int64_t x, count;      // its first column, and how many of its lanes are queries
  int64_t low, offsets;  // key column minus query column: from low on, so many
  const float* mask;     // [offset][lane] 0 inside the lane's window, kOutside elsewhere; or null
};

RS_INLINE Lanes make_lanes(const NeighborhoodProblem& s, int64_t x, int64_t end, float* mask) {
  Lanes v = {x, end - x < W ? end - x : W, 0, 0, nullptr};
  int64_t high = 0;
  bool same = true;
  for (int64_t i = 0; i < v.count; ++i) {
    const int64_t low = window_start(x + i, s.width, s.columns) - (x + i);
    same = same && (i == 0 || low == v.low);
    v.low = i == 0 || low < v.low ? low : v.low;
    high = i == 0 || low > high ? low : high;
  }
  v.offsets = high - v.low + s.columns;
  if (same) return v;
  for (int64_t j = 0; j < v.offsets; ++j) {
    for (int64_t i = 0; i < W; ++i) {
      const int64_t low = window_start(x + i, s.width, s.columns) - (x + i);
      const int64_t offset = v.low + j;
      const bool inside = i >= v.count || (offset >= low && offset < low + s.columns);
      mask[j * W + i] = inside ? 0.0f : kOutside;
    }
  }
  v.mask = mask;
  return v;
}

// All vectors of queries in map columns [first, last).
struct AllLanes {
  Lanes* lanes;
  float* masks;

  void take(Space& space, const NeighborhoodProblem& s, int64_t columns) {
    const int64_t count = (columns + W - 1) / W;
    const auto bytes = count * static_cast<int64_t>(sizeof(Lanes));
    lanes = reinterpret_cast<Lanes*>(space.take((bytes + 3) / 4));
    masks = space.take(count * (2 * s.columns - 1) * W);
  }
  void fill(const NeighborhoodProblem& s, int64_t first, int64_t last) const {
    float* mask = masks;
    for (int64_t x = first, i = 0; x < last; x += W, ++i, mask += (2 * s.columns - 1) * W) {
      lanes[i] = make_lanes(s, x, last, mask);
    }
  }
};

}  // namespace RSMAMBA_NS
