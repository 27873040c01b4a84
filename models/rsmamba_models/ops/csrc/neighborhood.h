// What one call of the neighbourhood attention works on, and the functions that work on it.
//
// Everything is float32. Strides are counted in floats and are all free, in the order batch, head,
// row, column, channel: planar and channel-last maps are both read and written in place.
#pragma once

#include <stdint.h>

extern "C" {

// Filled in by native_neighborhood.py, whose ctypes.Structure must list the same fields in order.
struct NeighborhoodProblem {
  int64_t batch, heads, height, width, size;  // size: channels of a head
  int64_t rows, columns;                      // of a window, at most those of the map
  int64_t kernel_size;                        // of the bias table, at least rows and columns
  int64_t q_strides[5], k_strides[5], v_strides[5], y_strides[5];
  const float *q, *k, *v;
  const float* bias;  // (heads, 2 kernel_size - 1, 2 kernel_size - 1), or null
  float* y;           // forward only
  // Backward only. grad_y has its own strides; each gradient has those of its tensor's gradient.
  int64_t grad_y_strides[5], grad_q_strides[5], grad_k_strides[5], grad_v_strides[5];
  const float* grad_y;
  float *grad_q, *grad_k, *grad_v, *grad_bias;
  float scale;
};

}  // extern "C"

namespace rsmamba {

// One unit of work of the forward pass: a rectangle of queries of one head of one image.
struct NeighborhoodForwardTask {
  int64_t batch, head, row, row_end, column, column_end;
  float* scratch;  // forward_scratch(problem, columns of the rectangle) floats, 64-byte aligned
};

// One unit of work of the backward pass: one head of one image.
struct NeighborhoodBackwardTask {
  int64_t batch, head;
  double* grad_bias;  // (2 kernel_size - 1)^2, of this head of this image only, or null
  float* scratch;     // backward_scratch(problem) floats, 64-byte aligned
};

// The kernels of one instruction set; a null `forward` means that it was not compiled in.
struct NeighborhoodKernels {
  int64_t width;  // columns of one vector
  int64_t (*forward_scratch)(const NeighborhoodProblem&, int64_t columns);
  int64_t (*backward_scratch)(const NeighborhoodProblem&);
  void (*forward)(const NeighborhoodProblem&, const NeighborhoodForwardTask&);
  void (*backward)(const NeighborhoodProblem&, const NeighborhoodBackwardTask&);
};

extern const NeighborhoodKernels kNeighborhoodAvx512;
extern const NeighborhoodKernels kNeighborhoodAvx2;
extern const NeighborhoodKernels kNeighborhoodBaseline;

}  // namespace rsmamba
