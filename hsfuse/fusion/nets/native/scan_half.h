/* The scan in bfloat16: chunks of tokens as products of pairs. */

#if defined(__AVX512BF16__)
#define CHUNK 8 /* tokens whose outputs stay in registers */
#define MEETING (2 * CHUNK)
_Static_assert(ROWS % CHUNK == 0, "blocks of tokens consist of whole chunks");

typedef uint32_t two __attribute__((may_alias)); /* of bfloat16 */

/* What all heads share of a block of tokens, in bfloat16. */
typedef struct {
  two *b;     /* TOKENS / 2 x state: B of two tokens side by side */
  two *c;     /* TOKENS x state / 2 */
  two *both;  /* TOKENS x CHUNK: C . B of a token with those of its chunk, or its neighbour's: 0 if later */
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
      const __mmask16 meet = (__mmask16)((2 << t) - 1);
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
