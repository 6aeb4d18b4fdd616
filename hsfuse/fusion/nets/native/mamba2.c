/* Mamba-2 block, inference: layer norm, projection, causal convolution, scan, gated norm, projection, residual.
 *
 * Plain C with the vector extensions of GCC and Clang; the width of a vector follows the instruction set that the
 * compiler is told to use. Sequences are given by strides, so rows, columns and reversed lines of an image need no
 * copy. A sequence is worked off in blocks of TOKENS tokens that stay in the second-level cache.
 *
 * The scan steps through the recurrence itself. For the head widths and state sizes of these networks that needs
 * no more arithmetic than the chunked form with matrix products, no decay masks, and it rounds less.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8 /* rows and vectors of the matrix product's register block */
#define VECS 3
#define STEPS 4 /* tokens for which the scan keeps a piece of the state in registers */
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#define VECS 3
#define STEPS 2
#else
#define LANES 4
#define ROWS 4
#define VECS 2
#define STEPS 2
#endif

#define HALF_VECS 4 /* of a block of the product in bfloat16 */
#define TOKENS 48
#define TAPS 4
#define ALIGNMENT 64
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Everything about one block; the packed matrices come from hsf_pack. Mirrored by a ctypes.Structure. */
typedef struct {
  int32_t width, inner, state, headdim, residual, has_norm;
  float ln_eps, rms_eps;
  const float *ln_weight, *ln_bias;
  const float *w_in, *w_out;            /* packed */
  const float *conv_weight, *conv_bias; /* (tap, channel), (channel) */
  const float *dt_bias, *decay, *skip;  /* per head; decay is negative */
  const float *rms_weight;
  const uint16_t *w_in_half, *w_out_half; /* packed as bfloat16 pairs, or null: products in float32 */
} hsf_block;

/* Where the tokens of n_seq sequences lie, in elements. */
typedef struct {
  int64_t n_seq, length;
  int64_t in_seq, in_token, out_seq, out_token;
  int32_t half; /* 0: float32, 1: bfloat16 */
} hsf_layout;

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

/* c (ROWS x vecs vectors) = a (ROWS x depth) times one packed panel (depth x vecs vectors). */
INLINE void panel_product(const float *a, int64_t lda, const float *w, int depth, float *c, int64_t ldc, int vecs) {
  vf acc[ROWS][VECS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < vecs; j++) acc[i][j] = (vf){0};
  for (int k = 0; k < depth; k++) {
    vf row[VECS];
    for (int j = 0; j < vecs; j++) row[j] = load(w + (k * vecs + j) * LANES);
    for (int i = 0; i < ROWS; i++)
      for (int j = 0; j < vecs; j++) acc[i][j] += a[i * lda + k] * row[j];
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < vecs; j++) store(c + i * ldc + j * LANES, acc[i][j]);
}

/* c = a times a packed matrix of `columns` columns (a multiple of LANES); rows is a multiple of ROWS. */
static void product(const float *a, int64_t lda, const float *w, int depth, int columns, float *c, int64_t ldc,
                    int rows) {
  for (int first = 0; first < columns; first += VECS * LANES) {
    int vecs = (columns - first) / LANES;
    for (int i = 0; i < rows; i += ROWS) {
      const float *from = a + i * lda;
      float *to = c + i * ldc + first;
      if (vecs >= VECS)
        panel_product(from, lda, w, depth, to, ldc, VECS);
      else if (vecs == 2)
        panel_product(from, lda, w, depth, to, ldc, 2);
      else
        panel_product(from, lda, w, depth, to, ldc, 1);
    }
    w += (int64_t)depth * LANES * (vecs >= VECS ? VECS : vecs);
  }
}

static int round_up(int value, int step) { return (value + step - 1) / step * step; }

#if defined(__AVX512BF16__)
/* As panel_product, with bfloat16 factors: two steps along the depth at once. Blocks of any width have 24 sums. */
INLINE void panel_product_half(const uint16_t *a, int64_t lda, const uint16_t *w, int depth, float *c, int64_t ldc,
                               int vecs) {
  const int rows = 24 / vecs;
  __m512 acc[24];
  for (int i = 0; i < 24; i++) acc[i] = _mm512_setzero_ps();
  for (int k = 0; k < depth; k += 2) {
    __m512bh row[HALF_VECS];
    for (int j = 0; j < vecs; j++) row[j] = (__m512bh)_mm512_loadu_si512(w + (k * vecs + 2 * j) * LANES);
#pragma GCC unroll 24 /* else a block of one vector keeps its sums in memory */
    for (int i = 0; i < rows; i++) {
      int32_t pair;
      memcpy(&pair, a + i * lda + k, sizeof pair);
      __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      for (int j = 0; j < vecs; j++) acc[i * vecs + j] = _mm512_dpbf16_ps(acc[i * vecs + j], both, row[j]);
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vecs; j++) _mm512_storeu_ps(c + i * ldc + j * LANES, acc[i * vecs + j]);
}

/* As product; a and c have room for rows rounded up to HALF_ROWS. */
static void product_half(const uint16_t *a, int64_t lda, const uint16_t *w, int depth, int columns, float *c,
                         int64_t ldc, int rows) {
  for (int first = 0; first < columns; first += HALF_VECS * LANES) {
    const int left = (columns - first) / LANES, vecs = left < HALF_VECS ? left : HALF_VECS;
    for (int i = 0; i < rows; i += 24 / vecs) {
      const uint16_t *from = a + i * lda;
      float *to = c + i * ldc + first;
      if (vecs == 4)
        panel_product_half(from, lda, w, depth, to, ldc, 4);
      else if (vecs == 3)
        panel_product_half(from, lda, w, depth, to, ldc, 3);
      else if (vecs == 2)
        panel_product_half(from, lda, w, depth, to, ldc, 2);
      else
        panel_product_half(from, lda, w, depth, to, ldc, 1);
    }
    w += (int64_t)depth * LANES * vecs;
  }
}
#endif

/* Whether products of bfloat16 factors are faster here than those of float32. */
int hsf_has_half_product(void) {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

int hsf_lanes(void) { return LANES; }

/* Floats that hsf_pack writes for a (depth x columns) matrix. */
int64_t hsf_packed_size(int32_t depth, int32_t columns) { return (int64_t)depth * round_up(columns, LANES); }

/* Pack w, given as (columns, depth) like the weight of a linear layer, into panels; zero where padded. */
void hsf_pack(const float *w, int32_t depth, int32_t columns, float *packed) {
  int padded = round_up(columns, LANES);
  for (int first = 0; first < padded; first += VECS * LANES) {
    int wide = padded - first < VECS * LANES ? padded - first : VECS * LANES;
    for (int k = 0; k < depth; k++)
      for (int j = 0; j < wide; j++) *packed++ = first + j < columns ? w[(int64_t)(first + j) * depth + k] : 0.0f;
  }
}

/* Pack w (columns, depth), given as bfloat16, into panels of pairs along an even depth. */
void hsf_pack_half(const uint16_t *w, int32_t depth, int32_t columns, uint16_t *packed) {
  int padded = round_up(columns, LANES);
  for (int first = 0; first < padded; first += HALF_VECS * LANES) {
    int wide = padded - first < HALF_VECS * LANES ? padded - first : HALF_VECS * LANES;
    for (int k = 0; k < depth; k += 2)
      for (int j = 0; j < wide; j++)
        for (int half = 0; half < 2; half++)
          *packed++ = first + j < columns ? w[(int64_t)(first + j) * depth + k + half] : 0;
  }
}

/* The recurrence for `vecs` vectors of one head's channels over one block of tokens. */
INLINE void scan_piece(float *state, int64_t state_stride, int n_state, const float *x, int64_t ldx, const float *b,
                       const float *c, int64_t ldv, const float *step, const float *fade, int n_head, float skip,
                       float *y, int64_t ldy, int tokens, int vecs) {
  for (int t = 0; t < tokens; t += STEPS) {
    vf in[STEPS][2], out[STEPS][2];
    float keep[STEPS];
    for (int s = 0; s < STEPS; s++) {
      keep[s] = fade[(t + s) * n_head];
      for (int j = 0; j < vecs; j++) {
        vf value = load(x + (t + s) * ldx + j * LANES);
        out[s][j] = value * skip;
        in[s][j] = value * step[(t + s) * n_head];
      }
    }
    const float *bt = b + t * ldv, *ct = c + t * ldv;
    for (int n = 0; n < n_state; n++) {
      vf h[2];
      for (int j = 0; j < vecs; j++) h[j] = load(state + n * state_stride + j * LANES);
      for (int s = 0; s < STEPS; s++) {
        float bn = bt[s * ldv + n], cn = ct[s * ldv + n];
        for (int j = 0; j < vecs; j++) {
          h[j] = h[j] * keep[s] + bn * in[s][j];
          out[s][j] += cn * h[j];
        }
      }
      for (int j = 0; j < vecs; j++) store(state + n * state_stride + j * LANES, h[j]);
    }
    for (int s = 0; s < STEPS; s++)
      for (int j = 0; j < vecs; j++) store(y + (t + s) * ldy + j * LANES, out[s][j]);
  }
}

/* As scan_piece, with two operations for each value of the state and token instead of three: within STEPS tokens
 * the state is kept in units of the decay since their start. `grow` is the step over that decay, `fade` the decay.
 */
INLINE void scan_scaled(float *state, int64_t state_stride, int n_state, const float *x, int64_t ldx, const float *b,
                        const float *c, int64_t ldv, const float *grow, const float *fade, int n_head, float skip,
                        float *y, int64_t ldy, int tokens, int vecs) {
  for (int t = 0; t < tokens; t += STEPS) {
    vf in[STEPS][2], out[STEPS][2];
    for (int s = 0; s < STEPS; s++)
      for (int j = 0; j < vecs; j++) {
        in[s][j] = load(x + (t + s) * ldx + j * LANES) * grow[(t + s) * n_head];
        out[s][j] = (vf){0};
      }
    const float *bt = b + t * ldv, *ct = c + t * ldv;
    const float last = fade[(t + STEPS - 1) * n_head];
    for (int n = 0; n < n_state; n++) {
      vf h[2];
      for (int j = 0; j < vecs; j++) h[j] = load(state + n * state_stride + j * LANES);
      for (int s = 0; s < STEPS; s++) {
        float bn = bt[s * ldv + n], cn = ct[s * ldv + n];
        for (int j = 0; j < vecs; j++) {
          h[j] += bn * in[s][j];
          out[s][j] += cn * h[j];
        }
      }
      for (int j = 0; j < vecs; j++) store(state + n * state_stride + j * LANES, h[j] * last);
    }
    for (int s = 0; s < STEPS; s++)
      for (int j = 0; j < vecs; j++)
        store(y + (t + s) * ldy + j * LANES,
              out[s][j] * fade[(t + s) * n_head] + load(x + (t + s) * ldx + j * LANES) * skip);
  }
}

#if defined(__AVX512BF16__)
#define CHUNK 8 /* tokens whose outputs stay in registers */
#define MEETING (2 * CHUNK)

typedef uint32_t two __attribute__((may_alias)); /* of bfloat16 */

/* What all heads share of a block of tokens, in bfloat16. */
typedef struct {
  two *b;     /* TOKENS / 2 x state: B of two tokens side by side */
  two *c;     /* TOKENS x state / 2 */
  two *both;  /* TOKENS x CHUNK: C . B of a token with those of its two chunks, 0 where they do not meet */
  two *whole; /* MEETING x state / 2: B of two chunks */
} hsf_shared;

/* (even and odd elements) of two vectors side by side */
INLINE __m512i pair_up(vf even, vf odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even));
}

INLINE vf dot(vf to, uint32_t pair, __m512i pairs) {
  return (vf)_mm512_dpbf16_ps((__m512)to, (__m512bh)_mm512_set1_epi32((int)pair), (__m512bh)pairs);
}


static void transpose(__m512i m[16]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
    }
  for (int j = 0; j < 4; j++) {
    const __m512i p = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), q = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    const __m512i r = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd), s = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    m[j] = _mm512_shuffle_i32x4(p, q, 0x88);
    m[4 + j] = _mm512_shuffle_i32x4(r, s, 0x88);
    m[8 + j] = _mm512_shuffle_i32x4(p, q, 0xdd);
    m[12 + j] = _mm512_shuffle_i32x4(r, s, 0xdd);
  }
}

/* Prepare B, C and the products of both; b and c are rows of ldv floats. */
static void share(const hsf_shared *to, const float *b, const float *c, int64_t ldv, int n_state, int tokens) {
  for (int t = 0; t < tokens; t += 2)
    for (int n = 0; n < n_state; n += LANES) {
      const __m512i pairs = pair_up(load(b + t * ldv + n), load(b + (t + 1) * ldv + n));
      memcpy(to->b + t / 2 * n_state + n, &pairs, sizeof pairs);
    }
  for (int t = 0; t < tokens; t++)
    for (int n = 0; n < n_state; n += LANES) store_half((uint16_t *)to->c + t * n_state + n, load(c + t * ldv + n));
  for (int start = 0; start < tokens; start += MEETING) {
    vf sums[MEETING];
    const int some = tokens - start < MEETING ? tokens - start : MEETING;
    for (int t = 0; t < MEETING; t++) {
      sums[t] = (vf){0};
      for (int n = 0; n < n_state; n += LANES)
        store_half((uint16_t *)to->whole + t * n_state + n, t < some ? load(b + (start + t) * ldv + n) : (vf){0});
    }
    for (int n = 0; n < n_state; n += 2 * LANES) {
      const int pairs = (n_state - n) / 2 < LANES ? (n_state - n) / 2 : LANES;
      __m512i m[16];
      for (int t = 0; t < 16; t++)
        m[t] = _mm512_maskz_loadu_epi32((__mmask16)((1 << pairs) - 1), to->whole + (t * n_state + n) / 2);
      transpose(m);
      for (int t = 0; t < some; t++)
        for (int k = 0; k < pairs; k++) sums[t] = dot(sums[t], to->c[((start + t) * n_state + n) / 2 + k], m[k]);
    }
    for (int t = 0; t < some; t++) {
      const int own = t / CHUNK * CHUNK; /* the first token of its chunk */
      const __mmask16 meet = (__mmask16)((2 << t) - (1 << own));
      store_half((uint16_t *)(to->both + (start + t) * CHUNK), (vf)_mm512_maskz_mov_ps(meet, (__m512)sums[t]));
    }
  }
}

/* As scan_scaled, by products of bfloat16 pairs: CHUNK tokens meet the state before them, and each other, at once.
 * The state is kept in units of the decay to the middle of its chunk, and in float32. `rise` is what brings it to
 * the next chunk's unit but for `pending`, which the last chunk left; `grow` is the step over the decay since the
 * middle, `fade` that decay.
 */
static float scan_chunks(float *state, int64_t state_stride, int n_state, const float *x, int64_t ldx,
                         const hsf_shared *shared, const float *grow, const float *fade, const float *rise,
                         int n_head, float pending, float skip, float *y, int64_t ldy, int tokens) {
  const int64_t half = n_state / 2;
  for (int t = 0; t < tokens; t += CHUNK) {
    vf out[CHUNK][2];
    __m512i in[CHUNK / 2][2];
    for (int s = 0; s < CHUNK; s += 2)
      for (int j = 0; j < 2; j++)
        in[s / 2][j] = pair_up(load(x + (t + s) * ldx + j * LANES) * grow[(t + s) * n_head],
                               load(x + (t + s + 1) * ldx + j * LANES) * grow[(t + s + 1) * n_head]);
    const two *both = shared->both + t * CHUNK + t % MEETING / 2;
    for (int s = 0; s < CHUNK; s++)
      for (int j = 0; j < 2; j++) {
        out[s][j] = (vf){0};
        for (int k = 0; k <= s / 2; k++) out[s][j] = dot(out[s][j], both[s * CHUNK + k], in[k][j]);
      }
    const two *b = shared->b + t / 2 * n_state, *c = shared->c + t * n_state / 2;
    const float unit = pending * rise[t / CHUNK * n_head];
    for (int64_t n = 0; n < n_state; n += 2) {
      vf h[2][2];
      __m512i pairs[2];
      for (int j = 0; j < 2; j++) {
        for (int i = 0; i < 2; i++) h[i][j] = load(state + (n + i) * state_stride + j * LANES) * unit;
        pairs[j] = pair_up(h[0][j], h[1][j]);
      }
      for (int s = 0; s < CHUNK; s++)
        for (int j = 0; j < 2; j++) out[s][j] = dot(out[s][j], c[s * half], pairs[j]);
      for (int i = 0; i < 2; i++)
        for (int k = 0; k < CHUNK / 2; k++)
          for (int j = 0; j < 2; j++) h[i][j] = dot(h[i][j], b[k * n_state + n + i], in[k][j]);
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) store(state + (n + i) * state_stride + j * LANES, h[i][j]);
      c++;
    }
    for (int s = 0; s < CHUNK; s++)
      for (int j = 0; j < 2; j++)
        store(y + (t + s) * ldy + j * LANES,
              out[s][j] * fade[(t + s) * n_head] + load(x + (t + s) * ldx + j * LANES) * skip);
    pending = fade[(t + CHUNK - 1) * n_head];
  }
  return pending;
}
#endif

typedef struct {
  float *x;      /* TOKENS x width: input, normalised */
  float *proj;   /* (TOKENS + TAPS - 1) x columns: z, x, B, C, dt; the first rows are the previous block's last */
  float *mixed;  /* TOKENS x (inner + 2 state): after convolution */
  float *y;      /* TOKENS x inner */
  float *out;    /* TOKENS x width */
  float *step;   /* TOKENS x head */
  float *fade;   /* TOKENS x head */
  float *grow;   /* TOKENS x head */
  float *state;  /* state x inner */
  float *rise;   /* TOKENS / CHUNK x head */
  float *pending; /* head: what the state is still to be multiplied by */
  uint16_t *half; /* TOKENS x inner: factors of a product in bfloat16 */
#if defined(__AVX512BF16__)
  hsf_shared shared;
#endif
} workspace;

#if defined(__AVX512BF16__)
#define HALF_PRODUCT 1
#else
#define HALF_PRODUCT 0
#endif

/* Values that are the factor of a product next: bfloat16 where that is multiplied so, else float32. */
INLINE void put_factor(float *x, uint16_t *narrow, int64_t i, vf value, int half) {
  if (half && HALF_PRODUCT)
    store_half(narrow + i, value);
  else
    store(x + i, value);
}

/* What put_factor left (tokens x depth) times a packed matrix. */
INLINE void project(const workspace *w, const float *x, int depth, const float *matrix, const uint16_t *matrix_half,
                    int columns, float *c, int64_t ldc, int tokens, int half) {
#if HALF_PRODUCT
  if (half) {
    product_half(w->half, depth, matrix_half, depth, columns, c, ldc, tokens);
    return;
  }
#else
  (void)w;
  (void)matrix_half;
  (void)half;
#endif
  product(x, depth, matrix, depth, columns, c, ldc, tokens);
}

/* Read tokens and normalise them: the first product's factor. */
INLINE void fetch(const hsf_block *p, const workspace *w, const hsf_layout *at, const void *from, int count, int tokens,
                  int half) {
  const int width = p->width;
  for (int t = 0; t < tokens; t++) {
    float *row = w->x + (int64_t)t * width;
    if (t >= count) {
      for (int i = 0; i < width; i += LANES) put_factor(w->x, w->half, (int64_t)t * width + i, (vf){0}, half);
      continue;
    }
    vf total = (vf){0};
    for (int i = 0; i < width; i += LANES) {
      const vf value = half ? load_half((const uint16_t *)from + t * at->in_token + i)
                            : load((const float *)from + t * at->in_token + i);
      total += value;
      store(row + i, value);
      if (!p->has_norm) put_factor(w->x, w->half, (int64_t)t * width + i, value, half);
    }
    if (!p->has_norm) continue;
    float mean = sum(total) / width;
    vf squares = (vf){0};
    for (int i = 0; i < width; i += LANES) {
      vf d = load(row + i) - mean;
      squares += d * d;
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / width + p->ln_eps);
    for (int i = 0; i < width; i += LANES)
      put_factor(w->x, w->half, (int64_t)t * width + i,
                 (load(row + i) - mean) * scale * load(p->ln_weight + i) + load(p->ln_bias + i), half);
  }
}

static void emit(const hsf_block *p, const hsf_layout *at, const void *from, void *to, int count, const float *out) {
  const int width = p->width;
  for (int t = 0; t < count; t++) {
    const float *row = out + (int64_t)t * width;
    if (at->half) {
      const uint16_t *source = (const uint16_t *)from + t * at->in_token;
      uint16_t *target = (uint16_t *)to + t * at->out_token;
      for (int i = 0; i < width; i += LANES) {
        vf value = load(row + i);
        if (p->residual) value += load_half(source + i);
        store_half(target + i, value);
      }
    } else {
      const float *source = (const float *)from + t * at->in_token;
      float *target = (float *)to + t * at->out_token;
      for (int i = 0; i < width; i += LANES) {
        vf value = load(row + i);
        if (p->residual) value += load(source + i);
        store(target + i, value);
      }
    }
  }
}

/* Convolution and SiLU of x, B and C; then keep the last rows for the next block. */
INLINE void convolve(const hsf_block *p, float *proj, int64_t columns, int count, float *mixed, int tokens,
                     int half) {
  const int channels = p->inner + 2 * p->state;
  for (int i = 0; i < channels; i += LANES) {
    const float *row = proj + p->inner + i;
    vf tap[TAPS], near[TAPS];
    for (int k = 0; k < TAPS; k++) tap[k] = load(p->conv_weight + k * channels + i);
    for (int k = 1; k < TAPS; k++) near[k] = load(row + (k - 1) * columns);
    const vf bias = load(p->conv_bias + i);
    for (int t = 0; t < tokens; t++) {
      vf value = bias;
      for (int k = 0; k < TAPS - 1; k++) near[k] = near[k + 1];
      near[TAPS - 1] = load(row + (t + TAPS - 1) * columns);
      for (int k = 0; k < TAPS; k++) value += near[k] * tap[k];
      store(mixed + (int64_t)t * channels + i, half ? silu_rough(value) : silu(value));
    }
  }
  for (int k = 0; k < TAPS - 1; k++)
    memmove(proj + k * columns + p->inner, proj + (count + k) * columns + p->inner, sizeof(float) * channels);
}

/* Decays below this, since the start of STEPS tokens or from the middle of a chunk, are too steep to divide by. */
#define STEEPEST -60.0f

enum way { STEPWISE, SCALED, CHUNKED };

/* Sum the logarithms of a head's decays as its way of scanning takes them, and say which way that is. */
INLINE enum way sum_decays(const workspace *w, const float *step, float decay, int heads, int tokens, int chunks) {
  float *passed = w->fade + (step - w->step);
#if defined(__AVX512BF16__)
  int gentle = chunks;
  for (int t = 0; gentle && t < tokens; t += CHUNK) {
    float now = 0.0f;
    for (int s = 0; s < CHUNK; s++) {
      now += step[(t + s) * heads] * decay;
      passed[(t + s) * heads] = now;
    }
    const float middle = 0.5f * now;
    for (int s = 0; s < CHUNK; s++) passed[(t + s) * heads] -= middle;
    w->rise[t / CHUNK * heads + (step - w->step)] = middle;
    gentle = middle > STEEPEST;
  }
  if (gentle) return CHUNKED;
#else
  (void)chunks;
#endif
  float lowest = 0.0f;
  for (int t = 0; t < tokens; t++) {
    const float now = (t % STEPS ? passed[(t - 1) * heads] : 0.0f) + step[t * heads] * decay;
    passed[t * heads] = now;
    lowest = now < lowest ? now : lowest;
  }
  if (lowest > STEEPEST) return SCALED;
  for (int t = 0; t < tokens; t++) passed[t * heads] = step[t * heads] * decay;
  return STEPWISE;
}

INLINE void scan(const hsf_block *p, const workspace *w, const float *dt, int64_t columns, int count, int tokens,
                 int half) {
  const int heads = p->inner / p->headdim, channels = p->inner + 2 * p->state, steps = tokens * heads;
  for (int t = 0; t < tokens; t++)
    for (int h = 0; h < heads; h++) w->step[t * heads + h] = dt[t * columns + h] + p->dt_bias[h];
  for (int i = 0; i < steps; i += LANES) store(w->step + i, softplus(load(w->step + i)));
  /* Beyond the sequence's end nothing may happen to the state. */
  memset(w->step + count * heads, 0, sizeof(float) * (tokens - count) * heads);

  const int pair = p->headdim % (2 * LANES) == 0, chunks = half && pair && p->state % LANES == 0;
  unsigned char way[heads];
  for (int h = 0; h < heads; h++) way[h] = sum_decays(w, w->step + h, p->decay[h], heads, tokens, chunks);
  for (int i = 0; i < steps; i += LANES) {
    const vf passed = load(w->fade + i);
    store(w->fade + i, vexp(passed));
    store(w->grow + i, load(w->step + i) * vexp(-passed));
  }

  const float *b = w->mixed + p->inner, *c = b + p->state;
#if defined(__AVX512BF16__)
  if (chunks) {
    for (int i = 0; i < tokens / CHUNK * heads; i += LANES) store(w->rise + i, vexp(load(w->rise + i)));
    share(&w->shared, b, c, channels, p->state, tokens);
  }
#endif
  for (int h = 0; h < heads; h++) {
    const float *step = w->step + h, *fade = w->fade + h, *grow = w->grow + h;
    float left = 1.0f;
    for (int i = h * p->headdim; i < (h + 1) * p->headdim; i += pair ? 2 * LANES : LANES) {
      float *state = w->state + i, *y = w->y + i;
      const float *x = w->mixed + i;
#if defined(__AVX512BF16__)
      if (way[h] == CHUNKED) {
        left = scan_chunks(state, p->inner, p->state, x, channels, &w->shared, grow, fade, w->rise + h, heads,
                           w->pending[h], p->skip[h], y, p->inner, tokens);
        continue;
      }
#endif
      if (w->pending[h] != 1.0f)
        for (int n = 0; n < p->state; n++)
          for (int j = 0; j < (pair ? 2 * LANES : LANES); j += LANES) {
            float *at = state + (int64_t)n * p->inner + j;
            store(at, load(at) * w->pending[h]);
          }
      if (way[h] == STEPWISE && pair)
        scan_piece(state, p->inner, p->state, x, channels, b, c, channels, step, fade, heads, p->skip[h], y, p->inner,
                   tokens, 2);
      else if (way[h] == STEPWISE)
        scan_piece(state, p->inner, p->state, x, channels, b, c, channels, step, fade, heads, p->skip[h], y, p->inner,
                   tokens, 1);
      else if (pair)
        scan_scaled(state, p->inner, p->state, x, channels, b, c, channels, grow, fade, heads, p->skip[h], y, p->inner,
                    tokens, 2);
      else
        scan_scaled(state, p->inner, p->state, x, channels, b, c, channels, grow, fade, heads, p->skip[h], y, p->inner,
                    tokens, 1);
    }
    w->pending[h] = left;
  }
}

/* Normalised y . silu(z): the second product's factor. */
INLINE void gate(const hsf_block *p, const float *z, int64_t columns, float *y, uint16_t *narrow, int count, int half) {
  for (int t = 0; t < count; t++) {
    const int64_t start = (int64_t)t * p->inner;
    float *row = y + start;
    vf squares = (vf){0};
    for (int i = 0; i < p->inner; i += LANES) {
      const vf open = load(z + t * columns + i);
      vf value = load(row + i) * (half ? silu_rough(open) : silu(open));
      squares += value * value;
      store(row + i, value);
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / p->inner + p->rms_eps);
    for (int i = 0; i < p->inner; i += LANES)
      put_factor(y, narrow, start + i, load(row + i) * scale * load(p->rms_weight + i), half);
  }
}

/* Ask for the tokens of the next block: along columns of an image each lies in another page, which no processor
 * foresees. */
static void foresee(const char *from, int64_t step, int count, int64_t bytes) {
  for (int t = 0; t < count; t++)
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + t * step + i);
}

static float *take(char **cursor, int64_t floats) {
  float *start = (float *)*cursor;
  *cursor += (floats * (int64_t)sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return start;
}

INLINE int32_t run_block(const hsf_block *p, const hsf_layout *at, const void *u, void *out, int half) {
  const int heads = p->inner / p->headdim, channels = p->inner + 2 * p->state;
  const int columns = round_up(p->inner + channels + heads, LANES);
  const int64_t room = (int64_t)TOKENS * (2 * p->width + channels + 2 * p->inner + 5 * (heads + LANES) + 2 * p->state) +
                       (int64_t)(TOKENS + TAPS) * columns + (int64_t)p->state * p->inner + 24 * ALIGNMENT;
  void *memory;
  if (posix_memalign(&memory, ALIGNMENT, room * sizeof(float))) return 1;
  char *cursor = memory;
  workspace w;
  w.x = take(&cursor, (int64_t)TOKENS * p->width);
  w.proj = take(&cursor, (int64_t)(TOKENS + TAPS - 1) * columns);
  w.mixed = take(&cursor, (int64_t)TOKENS * channels);
  w.y = take(&cursor, (int64_t)TOKENS * p->inner);
  w.out = take(&cursor, (int64_t)TOKENS * p->width);
  w.step = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.fade = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.grow = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.state = take(&cursor, (int64_t)p->state * p->inner);
  w.rise = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.pending = take(&cursor, heads);
#if defined(__AVX512BF16__)
  w.shared.b = (two *)take(&cursor, (int64_t)TOKENS / 2 * p->state);
  w.shared.c = (two *)take(&cursor, (int64_t)TOKENS / 2 * p->state);
  w.shared.both = (two *)take(&cursor, (int64_t)TOKENS * CHUNK);
  w.shared.whole = (two *)take(&cursor, (int64_t)MEETING / 2 * p->state);
#endif
  w.half = (uint16_t *)take(&cursor, (int64_t)TOKENS * (p->inner > p->width ? p->inner : p->width) / 2);
  float *body = w.proj + (int64_t)(TAPS - 1) * columns;
  const int64_t size = half ? 2 : 4;
  for (int64_t s = 0; s < at->n_seq; s++) {
    memset(w.state, 0, sizeof(float) * p->state * p->inner);
    for (int h = 0; h < heads; h++) w.pending[h] = 1.0f;
    memset(w.proj, 0, sizeof(float) * (TAPS - 1) * columns);
    for (int64_t t = 0; t < at->length; t += TOKENS) {
      const int count = at->length - t < TOKENS ? (int)(at->length - t) : TOKENS;
      const int tokens = round_up(count, ROWS); /* what is beyond the end is computed and left out */
      const char *from = (const char *)u + (s * at->in_seq + t * at->in_token) * size;
      char *to = (char *)out + (s * at->out_seq + t * at->out_token) * size;
      fetch(p, &w, at, from, count, tokens, half);
      const int64_t left = at->length - t - count, ahead = left < TOKENS ? left : TOKENS;
      foresee(from + count * at->in_token * size, at->in_token * size, (int)ahead, p->width * size);
      foresee(to, at->out_token * size, count, p->width * size);
      project(&w, w.x, p->width, p->w_in, p->w_in_half, columns, body, columns, tokens, half);
      convolve(p, w.proj, columns, count, w.mixed, tokens, half);
      scan(p, &w, body + p->inner + channels, columns, count, tokens, half);
      gate(p, body, columns, w.y, w.half, tokens, half);
      project(&w, w.y, p->inner, p->w_out, p->w_out_half, p->width, w.out, p->width, tokens, half);
      emit(p, at, from, to, count, w.out);
    }
  }
  free(memory);
  return 0;
}

/* Run the block over all sequences. Returns 0, or 1 when there is no memory. */
int32_t hsf_mamba2(const hsf_block *p, const hsf_layout *at, const void *u, void *out) {
  return at->half ? run_block(p, at, u, out, 1) : run_block(p, at, u, out, 0);
}
