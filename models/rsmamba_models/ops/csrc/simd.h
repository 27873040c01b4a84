// One vector of floats, under one set of names, for each instruction set that the library knows.
//
// The file is compiled once per instruction set: kernel_avx512.cpp, kernel_avx2.cpp and
// kernel_baseline.cpp each define RSMAMBA_NS, the namespace that keeps the copies apart, and are
// compiled with their own target flags; what those flags switch on selects the branch below.
// No standard C++ header is included here: an inline function of the standard library compiled
// with AVX-512 could otherwise be the copy that the linker keeps for everybody.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#define RS_INLINE inline __attribute__((always_inline))
#define RS_LAMBDA __attribute__((always_inline))

// Makes a vector a value of unknown origin, so that the compiler neither loads it from memory twice
// nor fuses the product that it is with a sum.
#if defined(__AVX512F__)
#define RS_HOLD(x) asm("" : "+v"(x))
#elif defined(__SSE2__)
#define RS_HOLD(x) asm("" : "+x"(x))
#else
#define RS_HOLD(x) (void)(x)
#endif

namespace RSMAMBA_NS {

#if defined(__AVX512F__)

using V = __m512;
constexpr int W = 16;

RS_INLINE V set1(float x) { return _mm512_set1_ps(x); }
RS_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
RS_INLINE void store(float* p, V v) { _mm512_storeu_ps(p, v); }
RS_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
RS_INLINE V load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
RS_INLINE void store_first(float* p, V v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
RS_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
RS_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
RS_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
RS_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
RS_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
RS_INLINE V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
// The operand order matters: x86 returns the second operand when either one is NaN.
RS_INLINE V at_least(float bound, V x) { return _mm512_max_ps(set1(bound), x); }
RS_INLINE V at_most(float bound, V x) { return _mm512_min_ps(set1(bound), x); }
RS_INLINE V abs(V x) { return _mm512_abs_ps(x); }
// b where x < 0, a elsewhere.
RS_INLINE V if_negative(V x, V b, V a) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), a, b);
}
RS_INLINE V round_nearest(V x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// p * 2^n for an integral n of any size: zero, infinity and NaN come out by themselves.
RS_INLINE V scale(V p, V n) { return _mm512_scalef_ps(p, n); }
constexpr bool kScaleSaturates = true;
constexpr int kAbreast = 4;
constexpr int kGroup = 8;

// out[i] = sum over the lanes of v[i].
RS_INLINE void reduce8(const V v[8], float out[8]) {
  V h[4];
  for (int i = 0; i < 4; ++i) {
    h[i] = add(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44),
               _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xEE));
  }
  V q[2];
  for (int i = 0; i < 2; ++i) {
    q[i] = add(_mm512_shuffle_f32x4(h[2 * i], h[2 * i + 1], 0x88),
               _mm512_shuffle_f32x4(h[2 * i], h[2 * i + 1], 0xDD));
  }
  V pairs = add(_mm512_shuffle_ps(q[0], q[1], 0x88), _mm512_shuffle_ps(q[0], q[1], 0xDD));
  pairs = add(pairs, _mm512_permute_ps(pairs, 0xB1));
  const __m512i pick = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);
  _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(pick, pairs)));
}

#elif defined(__AVX2__) && defined(__FMA__)

using V = __m256;
constexpr int W = 8;

RS_INLINE V set1(float x) { return _mm256_set1_ps(x); }
RS_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
RS_INLINE void store(float* p, V v) { _mm256_storeu_ps(p, v); }
RS_INLINE __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
RS_INLINE V load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
RS_INLINE void store_first(float* p, V v, int n) { _mm256_maskstore_ps(p, first(n), v); }
RS_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
RS_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
RS_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
RS_INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
RS_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
RS_INLINE V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
RS_INLINE V at_least(float bound, V x) { return _mm256_max_ps(set1(bound), x); }
RS_INLINE V at_most(float bound, V x) { return _mm256_min_ps(set1(bound), x); }
RS_INLINE V abs(V x) { return _mm256_andnot_ps(set1(-0.0f), x); }
RS_INLINE V if_negative(V x, V b, V a) { return _mm256_blendv_ps(a, b, x); }
RS_INLINE V round_nearest(V x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
RS_INLINE V scale(V p, V n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}
constexpr bool kScaleSaturates = false;
constexpr int kAbreast = 2;
constexpr int kGroup = 4;

RS_INLINE void reduce8(const V v[8], float out[8]) {
  const V a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const V b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  store(out, add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
}

#elif defined(__SSE2__)

using V = __m128;
constexpr int W = 4;

RS_INLINE V set1(float x) { return _mm_set1_ps(x); }
RS_INLINE V load(const float* p) { return _mm_loadu_ps(p); }
RS_INLINE void store(float* p, V v) { _mm_storeu_ps(p, v); }
RS_INLINE V load_first(const float* p, int n) {
  float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
  return load(lanes);
}
RS_INLINE void store_first(float* p, V v, int n) {
  float lanes[4];
  store(lanes, v);
  memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}
RS_INLINE V add(V a, V b) { return _mm_add_ps(a, b); }
RS_INLINE V sub(V a, V b) { return _mm_sub_ps(a, b); }
RS_INLINE V mul(V a, V b) { return _mm_mul_ps(a, b); }
RS_INLINE V div(V a, V b) { return _mm_div_ps(a, b); }
RS_INLINE V fma(V a, V b, V c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
RS_INLINE V fnma(V a, V b, V c) { return _mm_sub_ps(c, _mm_mul_ps(a, b)); }
RS_INLINE V at_least(float bound, V x) { return _mm_max_ps(set1(bound), x); }
RS_INLINE V at_most(float bound, V x) { return _mm_min_ps(set1(bound), x); }
RS_INLINE V abs(V x) { return _mm_andnot_ps(set1(-0.0f), x); }
RS_INLINE V if_negative(V x, V b, V a) {
  const V mask = _mm_cmplt_ps(x, _mm_setzero_ps());
  return _mm_or_ps(_mm_and_ps(mask, b), _mm_andnot_ps(mask, a));
}
// Through integers, because SSE2 has no rounding instruction: only for |x| < 2^31.
RS_INLINE V round_nearest(V x) { return _mm_cvtepi32_ps(_mm_cvtps_epi32(x)); }
RS_INLINE V scale(V p, V n) {
  const __m128i exponent = _mm_slli_epi32(_mm_cvtps_epi32(n), 23);
  return _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(p), exponent));
}
constexpr bool kScaleSaturates = false;
constexpr int kAbreast = 2;
constexpr int kGroup = 4;

RS_INLINE void reduce4(V a, V b, V c, V d, float out[4]) {
  _MM_TRANSPOSE4_PS(a, b, c, d);
  store(out, add(add(a, b), add(c, d)));
}
RS_INLINE void reduce8(const V v[8], float out[8]) {
  reduce4(v[0], v[1], v[2], v[3], out);
  reduce4(v[4], v[5], v[6], v[7], out + 4);
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

using V = float32x4_t;
constexpr int W = 4;

RS_INLINE V set1(float x) { return vdupq_n_f32(x); }
RS_INLINE V load(const float* p) { return vld1q_f32(p); }
RS_INLINE void store(float* p, V v) { vst1q_f32(p, v); }
RS_INLINE V load_first(const float* p, int n) {
  float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
  return load(lanes);
}
RS_INLINE void store_first(float* p, V v, int n) {
  float lanes[4];
  store(lanes, v);
  memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}
RS_INLINE V add(V a, V b) { return vaddq_f32(a, b); }
RS_INLINE V sub(V a, V b) { return vsubq_f32(a, b); }
RS_INLINE V mul(V a, V b) { return vmulq_f32(a, b); }
RS_INLINE V div(V a, V b) { return vdivq_f32(a, b); }
RS_INLINE V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
RS_INLINE V fnma(V a, V b, V c) { return vfmsq_f32(c, a, b); }
// NEON's minimum and maximum return NaN when either operand is NaN.
RS_INLINE V at_least(float bound, V x) { return vmaxq_f32(set1(bound), x); }
RS_INLINE V at_most(float bound, V x) { return vminq_f32(set1(bound), x); }
RS_INLINE V abs(V x) { return vabsq_f32(x); }
RS_INLINE V if_negative(V x, V b, V a) { return vbslq_f32(vcltzq_f32(x), b, a); }
RS_INLINE V round_nearest(V x) { return vrndnq_f32(x); }
RS_INLINE V scale(V p, V n) {
  const int32x4_t exponent = vshlq_n_s32(vcvtnq_s32_f32(n), 23);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent));
}
constexpr bool kScaleSaturates = false;
constexpr int kAbreast = 2;
constexpr int kGroup = 8;

RS_INLINE void reduce8(const V v[8], float out[8]) {
  store(out, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
  store(out + 4, vpaddq_f32(vpaddq_f32(v[4], v[5]), vpaddq_f32(v[6], v[7])));
}

#else  // Any other processor: four lanes written out, for the compiler to make what it can of.

struct V {
  float lane[4];
};
constexpr int W = 4;

template <typename F>
RS_INLINE V each(F f) {
  V r;
  for (int i = 0; i < W; ++i) r.lane[i] = f(i);
  return r;
}
RS_INLINE V set1(float x) { return V{{x, x, x, x}}; }
RS_INLINE V load(const float* p) { return V{{p[0], p[1], p[2], p[3]}}; }
RS_INLINE void store(float* p, V v) { memcpy(p, v.lane, sizeof(v.lane)); }
RS_INLINE V load_first(const float* p, int n) {
  return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
RS_INLINE void store_first(float* p, V v, int n) {
  memcpy(p, v.lane, static_cast<size_t>(n) * sizeof(float));
}
RS_INLINE V add(V a, V b) { return each([=](int i) { return a.lane[i] + b.lane[i]; }); }
RS_INLINE V sub(V a, V b) { return each([=](int i) { return a.lane[i] - b.lane[i]; }); }
RS_INLINE V mul(V a, V b) { return each([=](int i) { return a.lane[i] * b.lane[i]; }); }
RS_INLINE V div(V a, V b) { return each([=](int i) { return a.lane[i] / b.lane[i]; }); }
RS_INLINE V fma(V a, V b, V c) { return add(mul(a, b), c); }
RS_INLINE V fnma(V a, V b, V c) { return sub(c, mul(a, b)); }
RS_INLINE V at_least(float bound, V x) {
  return each([=](int i) { return x.lane[i] < bound ? bound : x.lane[i]; });
}
RS_INLINE V at_most(float bound, V x) {
  return each([=](int i) { return x.lane[i] > bound ? bound : x.lane[i]; });
}
RS_INLINE V abs(V x) {
  return each([=](int i) { return x.lane[i] < 0.0f ? -x.lane[i] : x.lane[i]; });
}
RS_INLINE V if_negative(V x, V b, V a) {
  return each([=](int i) { return x.lane[i] < 0.0f ? b.lane[i] : a.lane[i]; });
}
// Adding and taking away 1.5 * 2^23 rounds to nearest: only for |x| < 2^22.
RS_INLINE V round_nearest(V x) {
  const V magic = set1(12582912.0f);
  return sub(add(x, magic), magic);
}
RS_INLINE V scale(V p, V n) {
  return each([=](int i) {
    if (n.lane[i] != n.lane[i]) return n.lane[i];
    int32_t bits;
    memcpy(&bits, &p.lane[i], sizeof(bits));
    bits += static_cast<int32_t>(n.lane[i]) * (1 << 23);
    float r;
    memcpy(&r, &bits, sizeof(r));
    return r;
  });
}
constexpr bool kScaleSaturates = false;
constexpr int kAbreast = 2;
constexpr int kGroup = 4;

RS_INLINE void reduce8(const V v[8], float out[8]) {
  for (int i = 0; i < 8; ++i) {
    out[i] = (v[i].lane[0] + v[i].lane[1]) + (v[i].lane[2] + v[i].lane[3]);
  }
}

#endif

// N vectors that go through a function abreast. The operations of one exponential wait for each
// other longer than a processor looks ahead; those of its neighbours fill the gaps. The kernels
// hold kGroup states in registers, beside which there is room for kAbreast.
template <int N>
struct Pack {
  V of[N];
};

template <int N>
struct Number {
  static constexpr int value = N;
};

// f(Number<0>()), ..., f(Number<N - 1>()): a loop without a counter, whose arrays are registers.
template <int N, typename F>
RS_INLINE void repeat(F f) {
  if constexpr (N > 0) {
    repeat<N - 1>(f);
    f(Number<N - 1>());
  }
}

template <int N, typename F>
RS_INLINE Pack<N> abreast(F f) {
  Pack<N> r;
  repeat<N>([&](auto i) RS_LAMBDA { r.of[i.value] = f(i.value); });
  return r;
}

RS_INLINE V nth(V x, int) { return x; }
template <int N>
RS_INLINE V nth(const Pack<N>& x, int i) {
  return x.of[i];
}

#define RS_ABREAST(name)                                                      \
  template <int N, typename... T>                                             \
  RS_INLINE Pack<N> name(const Pack<N>& x, const T&... more) {                \
    return abreast<N>([&](int i) { return name(x.of[i], nth(more, i)...); }); \
  }
RS_ABREAST(add)
RS_ABREAST(sub)
RS_ABREAST(mul)
RS_ABREAST(fma)
RS_ABREAST(round_nearest)
RS_ABREAST(scale)

template <int N>
RS_INLINE Pack<N> at_least(float bound, const Pack<N>& x) {
  return abreast<N>([&](int i) { return at_least(bound, x.of[i]); });
}
template <int N>
RS_INLINE Pack<N> at_most(float bound, const Pack<N>& x) {
  return abreast<N>([&](int i) { return at_most(bound, x.of[i]); });
}
template <int N>
RS_INLINE void hold(Pack<N>& x) {
  for (int i = 0; i < N; ++i) RS_HOLD(x.of[i]);
}

#if defined(__AVX512F__)

// Numbers are rounded to sixteenths by adding 1.5 * 2^19: the last four bits of such a sum then
// tell the fraction.
constexpr float kSixteenths = 786432.0f;

template <typename T>
RS_INLINE T rounded(T x) {
  return add(x, set1(kSixteenths));
}
template <typename T>
RS_INLINE T whole(T sum) {
  return sub(sum, set1(kSixteenths));
}
// 2^f for the fraction f of a rounded number.
RS_INLINE V root(V sum) {
  alignas(64) static constexpr float kRoots[16] = {
      1.0f, 1.0442737340927124f, 1.0905077457427979f, 1.1387885808944702f,
      1.1892070770263672f, 1.2418577671051025f, 1.2968395948410034f, 1.3542555570602417f,
      1.4142135381698608f, 1.4768261909484863f, 1.5422108173370361f, 1.610490322113037f,
      1.6817928552627563f, 1.7562521696090698f, 1.8340080976486206f, 1.9152065515518188f};
  return _mm512_permutexvar_ps(_mm512_castps_si512(sum), _mm512_load_ps(kRoots));
}
RS_ABREAST(root)

// 2^(n + r) for a rounded n. (2^r - 1) / r is right to 1.1e-7 of itself on [-1/32, 1/32]. The
// multiplications are what bounds the kernels; rounding, root and scaling run beside them.
template <typename T>
RS_INLINE T exp2_of(T sum, T r) {
  T q = fma(r, set1(0.05550410971045494f), set1(0.24023355543613434f));
  q = fma(q, r, set1(0.6931471824645996f));
  const T near = root(sum);
  return scale(fma(mul(near, r), q, near), whole(sum));
}

#else

template <typename T>
RS_INLINE T rounded(T x) {
  return round_nearest(x);
}
template <typename T>
RS_INLINE T whole(T n) {
  return n;
}

// 2^(n + r) for a rounded n: the best degree-5 polynomial for 2^r on [-0.5, 0.5] among those that
// are exactly 1 at 0 (relative error 9.1e-8).
template <typename T>
RS_INLINE T exp2_of(T n, T r) {
  T p = fma(r, set1(0.0013264730805531144f), set1(0.009671512991189957f));
  p = fma(p, r, set1(0.05550733581185341f));
  p = fma(p, r, set1(0.24022242426872253f));
  p = fma(p, r, set1(0.6931470036506653f));
  return scale(fma(p, r, set1(1.0f)), n);
}

#endif

// 2^x, exactly 1 at 0: a state that must not decay is multiplied by 1. NaN stays NaN; below -126
// the result is zero, from 128 on infinity.
template <int N>
RS_INLINE Pack<N> exp2(Pack<N> x) {
  hold(x);  // What follows is faster on the adders than fused with the product that x is.
  if (!kScaleSaturates) {
    // At -127 and 128 the exponent field alone spells zero and infinity.
    x = at_most(128.0f, at_least(-127.0f, x));
  }
  const Pack<N> n = rounded(x);
  return exp2_of(n, sub(x, whole(n)));
}
RS_INLINE V exp2(V x) { return exp2(Pack<1>{{x}}).of[0]; }

constexpr float kLog2e = 1.44269504f;

// Above -126 ln 2: the exponent field of e^x cannot run out, and e^x is 1.2e-38 at the least.
constexpr float kLowest = -87.3f;

// x - n ln 2, exact for x = n ln 2 + little.
RS_INLINE V less_ln2(V x, V n) {
  constexpr float kLn2High = 0.693359375f;  // few bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  return fnma(n, set1(kLn2Low), fnma(n, set1(kLn2High), x));
}

// softplus(x) = max(x, 0) + log1p(y) with y = e^-|x|, in two parts, because each of them is a long
// chain: log1p(y) = 2 atanh(y / (2 + y)) keeps the relative accuracy where the result is tiny. From
// x = 20 on it is below half a unit in the last place: the result is x itself.
RS_INLINE V exp_minus_abs(V x) {
  const V m = at_least(kLowest, sub(set1(0.0f), abs(x)));
  const V n = rounded(mul(m, set1(kLog2e)));
  // What log2(e) is beyond its first 24 bits: m may be large.
  constexpr float kLog2eLow = 1.92596299e-8f;
  const V r = fma(m, set1(kLog2e), sub(set1(0.0f), whole(n)));
  return exp2_of(n, fma(m, set1(kLog2eLow), r));
}
RS_INLINE V softplus(V x, V y) {
  const V s = div(y, add(y, set1(2.0f)));
  const V s2 = mul(s, s);
  V q = set1(0.1400599479675293f);
  q = fma(q, s2, set1(0.14000903069972992f));
  q = fma(q, s2, set1(0.2001076340675354f));
  q = fma(q, s2, set1(0.3333320915699005f));
  q = fma(q, s2, set1(1.0f));
  return fma(add(s, s), q, at_least(0.0f, x));
}
RS_INLINE V softplus(V x) { return softplus(x, exp_minus_abs(x)); }

// 1 - e^-x for x >= 0, to the relative accuracy of its result: the slope of softplus where softplus
// is x.
RS_INLINE V one_minus_exp(V x) {
  const V m = at_least(kLowest, sub(set1(0.0f), x));
  const V n = round_nearest(mul(m, set1(1.44269504f)));
  const V r = less_ln2(m, n);
  // e^r - 1, fitted on [-ln 2 / 2, ln 2 / 2] to a relative error of 1.3e-8.
  V q = set1(0.001394649618305266f);
  q = fma(q, r, set1(0.00836661085486412f));
  q = fma(q, r, set1(0.04166628047823906f));
  q = fma(q, r, set1(0.1666654348373413f));
  q = fma(q, r, set1(0.5f));
  q = fma(mul(r, r), q, r);
  const V whole = scale(set1(1.0f), n);
  return fnma(whole, q, sub(set1(1.0f), whole));
}

}  // namespace RSMAMBA_NS
