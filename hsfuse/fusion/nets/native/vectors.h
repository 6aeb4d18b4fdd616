/* Vectors of the instruction set that the compiler is told to use, and functions of them. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define SUMS 24     /* vectors of a matrix product that stay in registers */
#define MOST_VECS 4 /* and how many of them lie side by side */
#define ROWS 8      /* rows of tokens and weights come in such numbers */
#define STEPS 4 /* tokens for which the scan keeps a piece of the state in registers */
#elif defined(__AVX__)
#define LANES 8
#define SUMS 12
#define MOST_VECS 3
#define ROWS 4
#define STEPS 2
#else
#define LANES 4
#define SUMS 8
#define MOST_VECS 2
#define ROWS 4
#define STEPS 2
#endif

#define ALIGNMENT 64
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf x) { *(vf *)p = x; }
INLINE vf all(float x) { return x - (vf){0}; }
INLINE vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

INLINE vf load_half(const uint16_t *p) {
  vu wide = __builtin_convertvector(*(const vh *)p, vu) << 16;
  return (vf)wide;
}

INLINE void store_half(uint16_t *p, vf x) { /* round to nearest, ties to even */
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)x);
  memcpy(p, &half, sizeof half);
#else
  vu bits = (vu)x;
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *(vh *)p = __builtin_convertvector(bits, vh);
#endif
}

INLINE float sum(vf x) { /* in pairs: a chain of additions would wait for each */
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float part[LANES];
  for (int i = 0; i < LANES; i++) part[i] = x[i];
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
#endif
}

/* exp(x) for x in [-87, 88], clamped outside; relative error below 2e-7. */
INLINE vf vexp(vf x) {
  const vf low = all(-87.0f), high = all(88.0f);
#if defined(__AVX512F__)
  x = (vf)_mm512_max_ps((__m512)low, _mm512_min_ps((__m512)high, (__m512)x));
  vf k = (vf)_mm512_roundscale_ps((__m512)(x * 1.44269504f), 0);
#else
  const vf magic = all(12582912.0f);
  x = pick(x < low, low, x);
  x = pick(x > high, high, x);
  vf k = x * 1.44269504f + magic;
  vi power = (vi)k << 23;
  k -= magic;
#endif
  vf r = x - k * 0.693359375f + k * 2.12194440e-4f;
  vf p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
  return (vf)((vi)p + power);
#endif
}

INLINE vf silu(vf x) {
  vf d = 1.0f + vexp(-x);
#if defined(__AVX512F__)
  /* A division takes longer than an estimate and one step of Newton's, which is as good as float32 goes. */
  vf r = (vf)_mm512_rcp14_ps((__m512)d);
  r = r + r * (1.0f - d * r);
  return x * r;
#else
  return x / d;
#endif
}

/* 1 / (1 + exp(-x)) to a relative error of 1e-4, a fortieth of a bfloat16's last place, in half the operations. */
INLINE vf sigmoid_rough(vf x) {
#if defined(__AVX512F__)
  const __m512 t = _mm512_mul_ps((__m512)x, _mm512_set1_ps(-1.44269504f));
  const vf f = (vf)_mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF); /* t - floor(t) */
  vf p = all(7.8024537e-2f);
  p = p * f + 2.2606720e-1f;
  p = p * f + 6.9583349e-1f;
  p = p * f + 9.9992523e-1f;
  const vf d = 1.0f + (vf)_mm512_scalef_ps((__m512)p, t);
  return (vf)_mm512_rcp14_ps((__m512)d);
#else
  return 1.0f / (1.0f + vexp(-x));
#endif
}

INLINE vf silu_rough(vf x) { return x * sigmoid_rough(x); }

/* log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), the latter by the series of 2 atanh(t / (2 + t)). */
INLINE vf softplus(vf x) {
  vf positive = pick(x > 0.0f, x, all(0.0f));
  vf t = vexp(pick(x > 0.0f, -x, x));
  vf s = t / (2.0f + t), q = s * s;
  vf p = all(1.0f / 15.0f);
  p = p * q + 1.0f / 13.0f;
  p = p * q + 1.0f / 11.0f;
  p = p * q + 1.0f / 9.0f;
  p = p * q + 1.0f / 7.0f;
  p = p * q + 1.0f / 5.0f;
  p = p * q + 1.0f / 3.0f;
  p = p * q + 1.0f;
  return positive + 2.0f * s * p;
}
