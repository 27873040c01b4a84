// Runs the native neighbourhood attention without Python, for sanitizers.
//
// Every array is allocated at exactly its size, so that AddressSanitizer sees a read or write of
// one element too many. For each shape and instruction set, results of 1 and 4 threads must be
// equal to the last bit and agree with plain double-precision loops, and gradients with differences
// of those loops along one direction. Prints "ok" and the largest errors.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "neighborhood.h"

extern "C" {
int rsmamba_has_isa(int isa);
int rsmamba_neighborhood_forward(const NeighborhoodProblem* problem, int isa, int threads);
int rsmamba_neighborhood_backward(const NeighborhoodProblem* problem, int isa, int threads);
}

namespace {

template <typename T>
struct Tensors {
  std::vector<T> q, k, v, bias;
};

struct Shape {
  int64_t batch, heads, height, width, size, kernel_size;
  int64_t rows() const { return std::min(kernel_size, height); }
  int64_t columns() const { return std::min(kernel_size, width); }
  int64_t side() const { return 2 * kernel_size - 1; }
  int64_t elements() const { return batch * heads * height * width * size; }
};

constexpr double kScale = 0.7;

void check(bool good, const char* what) {
  if (good) return;
  std::printf("failed: %s\n", what);
  std::exit(1);
}

std::vector<double> plain(const Shape& s, const Tensors<double>& t) {
  std::vector<double> y(static_cast<std::size_t>(s.elements()));
  const auto start = [](int64_t i, int64_t n, int64_t w) {
    return std::min(std::max<int64_t>(i - w / 2, 0), n - w);
  };
  for (int64_t bh = 0; bh < s.batch * s.heads; ++bh) {
    for (int64_t i = 0; i < s.height * s.width; ++i) {
      const int64_t r0 = start(i / s.width, s.height, s.rows());
      const int64_t c0 = start(i % s.width, s.width, s.columns());
      const int64_t query = (bh * s.height * s.width + i) * s.size;
      double norm = 0.0;
      for (int64_t r = r0; r < r0 + s.rows(); ++r) {
        for (int64_t c = c0; c < c0 + s.columns(); ++c) {
          const int64_t key = ((bh * s.height + r) * s.width + c) * s.size;
          double score = 0.0;
          for (int64_t d = 0; d < s.size; ++d) score += t.q[query + d] * t.k[key + d];
          score *= kScale;
          if (!t.bias.empty()) {
            const int64_t down = r - i / s.width + s.kernel_size - 1;
            const int64_t right = c - i % s.width + s.kernel_size - 1;
            score += t.bias[(bh % s.heads * s.side() + down) * s.side() + right];
          }
          const double share = std::exp(score);
          norm += share;
          for (int64_t d = 0; d < s.size; ++d) y[query + d] += share * t.v[key + d];
        }
      }
      for (int64_t d = 0; d < s.size; ++d) y[query + d] /= norm;
    }
  }
  return y;
}

double largest(const std::vector<float>& ours, const std::vector<double>& expected) {
  double error = 0.0;
  double size = 1e-6;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    error = std::max(error, std::abs(ours[i] - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  return error / size;
}

std::vector<double> widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

double inner(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

void run(const Shape& s, bool with_bias, double worst[2]) {
  std::mt19937 random(static_cast<unsigned>(s.elements()));
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t size) {
    std::vector<float> x(static_cast<std::size_t>(size));
    for (float& value : x) value = normal(random);
    return x;
  };
  const int64_t table = with_bias ? s.heads * s.side() * s.side() : 0;
  const auto draw_all = [&] {
    return Tensors<float>{draw(s.elements()), draw(s.elements()), draw(s.elements()), draw(table)};
  };
  const Tensors<float> t = draw_all();
  const Tensors<float> direction = draw_all();
  const std::vector<float> grad_y = draw(s.elements());
  const auto moved = [&](double step) {
    Tensors<double> m = {widen(t.q), widen(t.k), widen(t.v), widen(t.bias)};
    const auto add = [&](std::vector<double>& to, const std::vector<float>& by) {
      for (std::size_t i = 0; i < to.size(); ++i) to[i] += step * by[i];
    };
    add(m.q, direction.q), add(m.k, direction.k), add(m.v, direction.v);
    add(m.bias, direction.bias);
    return plain(s, m);
  };
  const std::vector<double> expected = moved(0.0);
  const std::vector<double> ahead = moved(1e-5);
  const std::vector<double> behind = moved(-1e-5);
  double slope = 0.0;
  double slope_size = 1.0;
  for (std::size_t i = 0; i < ahead.size(); ++i) {
    const double part = grad_y[i] * (ahead[i] - behind[i]) / 2e-5;
    slope += part;
    slope_size += part * part;
  }

  for (int isa = 0; isa < 3; ++isa) {
    if (!rsmamba_has_isa(isa)) continue;
    std::vector<float> y[2];
    Tensors<float> grad[2];
    for (int n = 0; n < 2; ++n) {
      y[n].resize(t.q.size());
      grad[n] = t;
      NeighborhoodProblem p = {};
      p.batch = s.batch, p.heads = s.heads, p.height = s.height, p.width = s.width, p.size = s.size;
      p.rows = s.rows(), p.columns = s.columns(), p.kernel_size = s.kernel_size;
      for (int64_t* strides : {p.q_strides, p.k_strides, p.v_strides, p.y_strides, p.grad_y_strides,
                               p.grad_q_strides, p.grad_k_strides, p.grad_v_strides}) {
        strides[4] = 1;
        strides[3] = s.size;
        strides[2] = strides[3] * s.width;
        strides[1] = strides[2] * s.height;
        strides[0] = strides[1] * s.heads;
      }
      p.q = t.q.data(), p.k = t.k.data(), p.v = t.v.data(), p.y = y[n].data();
      p.bias = with_bias ? t.bias.data() : nullptr;
      p.grad_y = grad_y.data();
      p.grad_q = grad[n].q.data(), p.grad_k = grad[n].k.data(), p.grad_v = grad[n].v.data();
      p.grad_bias = with_bias ? grad[n].bias.data() : nullptr;
      p.scale = static_cast<float>(kScale);
      check(rsmamba_neighborhood_forward(&p, isa, n ? 4 : 1) == 0, "forward returns 0");
      check(rsmamba_neighborhood_backward(&p, isa, n ? 4 : 1) == 0, "backward returns 0");
    }
    check(y[0] == y[1], "1 and 4 threads give the same output");
    check(grad[0].q == grad[1].q && grad[0].k == grad[1].k && grad[0].v == grad[1].v &&
              grad[0].bias == grad[1].bias,
          "1 and 4 threads give the same gradients");
    worst[0] = std::max(worst[0], largest(y[0], expected));
    const double ours = inner(grad[0].q, direction.q) + inner(grad[0].k, direction.k) +
                        inner(grad[0].v, direction.v) + inner(grad[0].bias, direction.bias);
    worst[1] = std::max(worst[1], std::abs(ours - slope) / std::sqrt(slope_size));
  }
}

}  // namespace

int main() {
  double worst[2] = {0.0, 0.0};
  for (const Shape& s : {Shape{1, 1, 1, 1, 1, 1}, Shape{2, 2, 9, 7, 5, 3}, Shape{1, 2, 5, 40, 4, 7},
                         Shape{1, 1, 33, 17, 28, 9}, Shape{2, 1, 12, 90, 36, 11},
                         Shape{1, 3, 4, 3, 24, 8}, Shape{1, 1, 70, 70, 13, 2}}) {
    run(s, true, worst);
    run(s, false, worst);
  }
  check(worst[0] < 1e-5, "outputs agree with double precision");
  check(worst[1] < 1e-4, "gradients agree with differences");
  std::printf("output %.1e gradient %.1e\nok\n", worst[0], worst[1]);
  return 0;
}
