// Runs the native scan without Python, for sanitizers and for other processors under an emulator.
//
// Every array is allocated at exactly its size, so that AddressSanitizer sees a read or write of
// one element too many. For each shape and each instruction set, results of 1 and 4 threads must be
// equal to the last bit and must agree with a plain double-precision scan; gradients are held
// against differences of that scan. Prints "ok" and the largest errors.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "scan.h"

extern "C" {
int rsmamba_has_isa(int isa);
int rsmamba_scan_forward(const ScanProblem* problem, int isa, int threads);
int rsmamba_scan_backward(const ScanProblem* problem, int isa, int threads);
}

namespace {

using Floats = std::vector<float>;

struct Shape {
  int64_t batch, directions, length, channels, states;
};

struct Case {
  Shape shape;
  Floats u, delta, a, b, c, skip, bias, grad;
  std::vector<int32_t> order;
  int64_t rank = 0;  // of the steps that the forward pass projects: delta = low . dt_proj
  Floats low, dt_proj;
};

Case make_case(const Shape& s) {
  std::mt19937 random(static_cast<unsigned>(s.length * 7 + s.states));
  std::normal_distribution<float> normal;
  auto fill = [&](int64_t size, float scale) {
    Floats x(static_cast<size_t>(size));
    for (float& v : x) v = scale * normal(random);
    return x;
  };
  Case k{s, {}, {}, {}, {}, {}, {}, {}, {}, {}, 0, {}, {}};
  const int64_t map = s.batch * s.length * s.channels;
  const int64_t rows = s.batch * s.directions * s.length * s.states;
  k.u = fill(map, 1.0f);
  k.delta = fill(map * s.directions, 1.0f);
  k.a = fill(s.directions * s.channels * s.states, 1.0f);
  for (float& v : k.a) v = -std::fabs(v);
  k.b = fill(rows, 1.0f);
  k.c = fill(rows, 1.0f);
  k.skip = fill(s.directions * s.channels, 1.0f);
  k.bias = fill(s.directions * s.channels, 0.3f);
  k.grad = fill(map, 1.0f);
  k.order.resize(static_cast<size_t>(s.directions * s.length));
  for (int64_t d = 0; d < s.directions; ++d) {
    int32_t* row = k.order.data() + d * s.length;
    for (int64_t t = 0; t < s.length; ++t) row[t] = static_cast<int32_t>(t);
    for (int64_t t = s.length - 1; t > 0; --t) {
      std::swap(row[t], row[random() % static_cast<unsigned>(t + 1)]);
    }
  }
  return k;
}

struct Result {
  Floats y, grad_u, grad_delta, grad_a, grad_b, grad_c, grad_skip, grad_bias;
  bool operator==(const Result& o) const {
    return y == o.y && grad_u == o.grad_u && grad_delta == o.grad_delta && grad_a == o.grad_a &&
           grad_b == o.grad_b && grad_c == o.grad_c && grad_skip == o.grad_skip &&
           grad_bias == o.grad_bias;
  }
};

Result run(const Case& k, int isa, int threads) {
  const Shape& s = k.shape;
  Result r{k.u, k.u, k.delta, k.a, k.b, k.c, k.skip, k.bias};
  ScanProblem p;
  std::memset(&p, 0, sizeof(p));
  p.batch = s.batch;
  p.directions = s.directions;
  p.length = s.length;
  p.channels = s.channels;
  p.states = s.states;
  p.u_length = p.delta_length = p.grad_length = s.channels;
  p.u_batch = p.grad_batch = p.delta_direction = s.length * s.channels;
  p.delta_batch = s.directions * p.delta_direction;
  p.b_length = p.c_length = s.states;
  p.b_direction = p.c_direction = s.length * s.states;
  p.b_batch = p.c_batch = s.directions * p.b_direction;
  p.softplus = 1;
  p.u = k.u.data();
  p.delta = k.delta.data();
  p.a = k.a.data();
  p.b = k.b.data();
  p.c = k.c.data();
  p.skip = k.skip.data();
  p.bias = k.bias.data();
  p.order = k.order.data();
  p.y = r.y.data();
  p.grad_y = k.grad.data();
  p.grad_u = r.grad_u.data();
  p.grad_delta = r.grad_delta.data();
  p.grad_a = r.grad_a.data();
  p.grad_b = r.grad_b.data();
  p.grad_c = r.grad_c.data();
  p.grad_skip = r.grad_skip.data();
  p.grad_bias = r.grad_bias.data();
  if (k.rank > 0) {
    ScanProblem q = p;
    q.rank = k.rank;
    q.delta_length = k.rank;
    q.delta_direction = s.length * k.rank;
    q.delta_batch = s.directions * q.delta_direction;
    q.delta = k.low.data();
    q.dt_proj = k.dt_proj.data();
    if (rsmamba_scan_forward(&q, isa, threads)) {
      std::printf("a call failed\n");
      std::exit(1);
    }
    return r;
  }
  if (rsmamba_scan_forward(&p, isa, threads) || rsmamba_scan_backward(&p, isa, threads)) {
    std::printf("a call failed\n");
    std::exit(1);
  }
  return r;
}

// The scan in double precision, step by step.
std::vector<double> plain(const Case& k) {
  const Shape& s = k.shape;
  std::vector<double> y(k.u.size(), 0.0);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t j = 0; j < s.directions; ++j) {
      for (int64_t d = 0; d < s.channels; ++d) {
        const int64_t jd = j * s.channels + d;
        std::vector<double> h(static_cast<size_t>(s.states), 0.0);
        for (int64_t t = 0; t < s.length; ++t) {
          const int64_t p = k.order[j * s.length + t];
          const int64_t row = (b * s.directions + j) * s.length + p;
          const double u = k.u[(b * s.length + p) * s.channels + d];
          const double raw = double(k.delta[row * s.channels + d]) + k.bias[jd];
          const double dt = raw > 20 ? raw : std::log1p(std::exp(raw));
          double sum = k.skip[jd] * u;
          for (int64_t n = 0; n < s.states; ++n) {
            const int64_t i = row * s.states + n;
            h[n] = h[n] * std::exp(dt * k.a[jd * s.states + n]) + dt * u * k.b[i];
            sum += h[n] * k.c[i];
          }
          y[(b * s.length + p) * s.channels + d] += sum;
        }
      }
    }
  }
  return y;
}

double loss(const Case& k) {
  const std::vector<double> y = plain(k);
  double sum = 0.0;
  for (size_t i = 0; i < y.size(); ++i) sum += y[i] * k.grad[i];
  return sum;
}

double forward_error(const Case& k, const Result& r) {
  const std::vector<double> y = plain(k);
  double worst = 0.0, largest = 0.0;
  for (size_t i = 0; i < y.size(); ++i) {
    worst = std::fmax(worst, std::fabs(y[i] - r.y[i]));
    largest = std::fmax(largest, std::fabs(y[i]));
  }
  return worst / largest;
}

// A few entries of one gradient against central differences.
double gradient_error(Case& k, Floats& input, const Floats& gradient) {
  double largest = 1e-3, worst = 0.0;
  for (float g : gradient) largest = std::fmax(largest, std::fabs(double(g)));
  for (size_t i = 0; i < input.size(); i += 1 + input.size() / 3) {
    const float at = input[i];
    input[i] = at + 1e-2f;
    const double up = input[i], above = loss(k);
    input[i] = at - 1e-2f;
    const double down = input[i], below = loss(k);
    input[i] = at;
    worst = std::fmax(worst, std::fabs((above - below) / (up - down) - gradient[i]));
  }
  return worst / largest;
}

// Steps of rank 5, whole in `delta` and in their parts.
Case make_projected(const Shape& s) {
  Case k = make_case(s);
  k.rank = 5;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const int64_t rows = s.batch * s.directions * s.length;
  for (int64_t i = 0; i < rows * k.rank; ++i) k.low.push_back(normal(random));
  for (int64_t i = 0; i < s.directions * s.channels * k.rank; ++i) {
    k.dt_proj.push_back(0.4f * normal(random));
  }
  for (int64_t row = 0; row < rows; ++row) {
    const float* w = k.dt_proj.data() + row / s.length % s.directions * s.channels * k.rank;
    for (int64_t d = 0; d < s.channels; ++d) {
      double sum = 0.0;
      for (int64_t r = 0; r < k.rank; ++r) sum += double(k.low[row * k.rank + r]) * w[d * k.rank + r];
      k.delta[row * s.channels + d] = static_cast<float>(sum);
    }
  }
  return k;
}

bool all_finite(const Floats& x) {
  for (float v : x) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

// Inputs at the edges of what a model can produce. Returns what went wrong, or null.
const char* extremes(int isa, double* worst) {
  const Shape shape = {1, 2, 50, 19, 9};
  auto close = [&](const Case& k) {
    const Result r = run(k, isa, 1);
    const double error = forward_error(k, r);
    *worst = std::fmax(*worst, error);
    return error < 2e-6 && all_finite(r.grad_u) && all_finite(r.grad_delta) &&
           all_finite(r.grad_a);
  };
  Case fast = make_case(shape);
  for (size_t i = 0; i < fast.delta.size(); ++i) fast.delta[i] = i % 3 ? -100.0f : 100.0f;
  for (size_t i = 0; i < fast.a.size(); ++i) fast.a[i] = i % 2 ? -100.0f : -1e-3f;
  if (!close(fast)) return "steps of 0 and 100, decay rates to 100";
  Case still = make_case(shape);
  for (float& v : still.a) v = 0.0f;
  if (!close(still)) return "states that do not decay";
  Case tiny = make_case(shape);
  for (float& v : tiny.u) v *= 1e-40f;
  for (float v : run(tiny, isa, 1).y) {
    if (!(std::fabs(v) < 1e-37f)) return "denormal inputs";
  }
  Case broken = make_case(shape);
  const int64_t at = broken.order[20];  // the 21st step of the first direction
  broken.u[static_cast<size_t>(at * shape.channels)] = NAN;
  const Result r = run(broken, isa, 1);
  for (int64_t i = 0; i < shape.length * shape.channels; ++i) {
    const bool nan = std::isnan(r.y[static_cast<size_t>(i)]);
    if (i % shape.channels && nan) return "NaN in one channel spread to another";
    if (i == broken.order[30] * shape.channels && !nan) return "NaN was lost";
  }
  return nullptr;
}

}  // namespace

int main() {
  const Shape shapes[] = {{1, 4, 67, 40, 16}, {2, 2, 33, 19, 5},   {1, 1, 1, 1, 1},
                          {1, 8, 20, 33, 4},  {1, 2, 700, 130, 7}, {1, 3, 500, 96, 16},
                          {1, 1, 1 << 20, 1, 1}};
  double forward = 0.0, backward = 0.0;
  for (int isa = 0; isa < 3; ++isa) {
    if (!rsmamba_has_isa(isa)) continue;
    std::printf("instruction set %d\n", isa);
    if (const char* wrong = extremes(isa, &forward)) {
      std::printf("wrong: %s\n", wrong);
      return 1;
    }
    for (const Shape& shape : shapes) {
      const Case steps = make_projected(shape);
      const Result projected = run(steps, isa, 1);
      if (projected.y != run(steps, isa, 4).y) {
        std::printf("4 threads differ from 1\n");
        return 1;
      }
      forward = std::fmax(forward, forward_error(steps, projected));
      Case k = make_case(shape);
      const Result one = run(k, isa, 1);
      if (!(one == run(k, isa, 4))) {
        std::printf("4 threads differ from 1\n");
        return 1;
      }
      forward = std::fmax(forward, forward_error(k, one));
      if (shape.length > 100) continue;  // differences of long scans take too long
      Floats* inputs[] = {&k.u, &k.delta, &k.a, &k.b, &k.c, &k.skip, &k.bias};
      const Floats* gradients[] = {&one.grad_u, &one.grad_delta, &one.grad_a,   &one.grad_b,
                                   &one.grad_c, &one.grad_skip,  &one.grad_bias};
      for (int i = 0; i < 7; ++i) {
        backward = std::fmax(backward, gradient_error(k, *inputs[i], *gradients[i]));
      }
    }
  }
  std::printf("forward %.1e, gradients against differences %.1e\n", forward, backward);
  if (forward > 3e-6 || backward > 2e-3) return 1;
  std::printf("ok\n");
  return 0;
}
