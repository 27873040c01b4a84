// What one call of the directional scan works on, and the functions that work on it.
//
// Everything is float32 and row-major. Only the outermost strides of the large inputs are free
// (counted in floats); their last axis is contiguous, and so is everything else.
#pragma once

#include <stdint.h>

extern "C" {

// Filled in by native.py, whose ctypes.Structure must list the same fields in the same order.
struct ScanProblem {
  int64_t batch, directions, length, channels, states;
  int64_t u_batch, u_length;                          // strides of u (B, L, D)
  int64_t delta_batch, delta_direction, delta_length;  // of delta (B, K, L, D)
  int64_t b_batch, b_direction, b_length;              // of B (B, K, L, N)
  int64_t c_batch, c_direction, c_length;              // of C (B, K, L, N)
  int64_t grad_batch, grad_length;                     // of grad_y (B, L, D)
  int64_t softplus;                                    // 0 or 1
  int64_t rank;                                        // R of the steps, 0 where they are whole
  const float *u, *delta, *a, *b, *c;                  // a: (K, D, N)
  const float *skip, *bias;                            // (K, D) or null
  const int32_t* order;                                // (K, L): map position visited at time t
  // (K, D, R), or null. Where it is given, forward only, delta is (B, K, L, R) and the steps are
  // sum_r delta[r] dt_proj[r].
  const float* dt_proj;
  float* y;                                            // (B, L, D), forward only
  // Backward only, all contiguous and in the shape of what they are the gradient of.
  const float* grad_y;
  float *grad_u, *grad_delta, *grad_a, *grad_b, *grad_c, *grad_skip, *grad_bias;
};

}  // extern "C"

namespace rsmamba {

// One unit of work: some channels of one image in the directions [direction, direction_end).
struct ForwardTask {
  int64_t batch, channel, channel_end, direction, direction_end;
  float* y;         // (B, L, D); the first direction overwrites it, the later ones add to it
  float* scratch;   // forward_scratch(problem, channels) floats, 64-byte aligned
};

struct BackwardTask {
  int64_t batch, channel, channel_end, direction, direction_end;
  float* grad_u;    // (B, L, D); as y above
  float* grad_b;    // (B, K, L, N): the sum over this task's channels only
  float* grad_c;
  double* grad_a;   // (K, D, N), of this image only
  double* grad_bias;  // (K, D), of this image only
  double* grad_skip;  // (D), of this image only; written by direction 0
  float* scratch;   // backward_scratch(problem) floats, 64-byte aligned
};

// The kernels of one instruction set; a null `forward` means that it was not compiled in.
struct Kernels {
  int64_t width;  // channels of one vector
  int64_t pair;   // channels that the backward kernel takes at a time
  int64_t (*forward_scratch)(const ScanProblem&, int64_t channels);
  int64_t (*backward_scratch)(const ScanProblem&);
  void (*forward)(const ScanProblem&, const ForwardTask&);
  void (*backward)(const ScanProblem&, const BackwardTask&);
};

extern const Kernels kKernelsAvx512;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsBaseline;

}  // namespace rsmamba
